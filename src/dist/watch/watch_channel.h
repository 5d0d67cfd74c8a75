// Private to this folder: messages between the watchdogs. Nothing here waits for another rank: one
// that is stopped or gone leaves what it was sent under way, and that is all. Texts belong to the
// channel until they have arrived. One thread at a time.
#pragma once

#include <list>
#include <optional>
#include <string>

#include "dist/comm/mpi_handle.h"

namespace vax::dist {

enum class WatchMessage : int { kQuery = 1, kAnswer, kVerdict, kWritten };

class WatchChannel {
 public:
  struct Message {
    int from;
    WatchMessage kind;
    std::string text;
  };

  explicit WatchChannel(MpiCommunicator comm) : comm_(std::move(comm)) {}
  WatchChannel(const WatchChannel&) = delete;
  WatchChannel& operator=(const WatchChannel&) = delete;
  // Gives messages under way a moment; what then is left stays with MPI until the process ends.
  ~WatchChannel();

  int rank() const { return comm_.rank(); }
  int size() const { return comm_.size(); }
  // THROWS CommError, as receive().
  void send(int to, WatchMessage kind, const std::string& text);
  // The next message that is complete; also moves what is under way on.
  std::optional<Message> receive();

  void barrier();  // COLLECTIVE. BLOCKS host. May run beside the other functions.

 private:
  struct Transfer {
    Message message;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  bool is_complete(Transfer& transfer) const;
  void drop_sent();

  MpiCommunicator comm_;
  std::list<Transfer> sending_, receiving_;
};

}  // namespace vax::dist
