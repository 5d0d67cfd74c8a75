// Private to dist: messages between the ranks, sent and looked for by one thread of each. Nothing
// here waits for another rank: one that is stopped or gone leaves what it was sent under way, and
// that is all. Texts belong to the channel until they have arrived. Threads: one at a time.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <string>

namespace vax::dist {

class MpiCommunicator;

class MessageChannel {
 public:
  struct Message {
    int from;
    int kind;
    std::string text;
  };

  // See Communicator::make_message_channel().
  MessageChannel(MpiCommunicator comm, std::string purpose);
  MessageChannel(const MessageChannel&) = delete;
  MessageChannel& operator=(const MessageChannel&) = delete;
  // Gives messages under way a moment; what then is left stays with MPI until the process ends.
  ~MessageChannel();

  // `kind` >= 0. THROWS CommError, as receive().
  void send(int to, int kind, const std::string& text);
  // The next message that is complete; also moves what is under way on.
  std::optional<Message> receive();

  void barrier();  // COLLECTIVE. BLOCKS host. May run beside the other functions.

 private:
  struct Transfer;
  bool is_complete(Transfer& transfer) const;
  void drop_sent();

  std::unique_ptr<MpiCommunicator> comm_;
  const std::string purpose_;
  std::list<Transfer> sending_, receiving_;
};

}  // namespace vax::dist
