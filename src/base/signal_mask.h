// Blocks all signals for the calling thread as long as it lives. A thread that is started meanwhile
// blocks them for ever: signals are the main thread's affair.
#pragma once

#include <pthread.h>
#include <signal.h>

namespace vax {

class SignalMask {
 public:
  SignalMask() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  SignalMask(const SignalMask&) = delete;
  SignalMask& operator=(const SignalMask&) = delete;
  ~SignalMask() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace vax
