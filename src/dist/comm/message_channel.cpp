#include "dist/comm/message_channel.h"

#include <chrono>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "base/narrow.h"
#include "dist/comm/mpi_handle.h"

namespace vax::dist {
namespace {

constexpr std::chrono::milliseconds kLook{1};
constexpr int kLooksAtEnd = 500;

}  // namespace

struct MessageChannel::Transfer {
  Message message;
  MPI_Request request = MPI_REQUEST_NULL;
};

MessageChannel::MessageChannel(MpiCommunicator comm, std::string purpose)
    : comm_(std::make_unique<MpiCommunicator>(std::move(comm))), purpose_(std::move(purpose)) {}

MessageChannel::~MessageChannel() {
  try {
    for (int i = 0; i < kLooksAtEnd && !(sending_.empty() && receiving_.empty()); ++i) {
      std::this_thread::sleep_for(kLook);
      drop_sent();
      receive();
    }
  } catch (const std::exception& error) {
    log::error(error.what());
  }
  if (sending_.empty() && receiving_.empty()) return;
  // MPI may still read or write the texts.
  log::warning(cat("the ", purpose_, " ends with messages under way"));
  static_cast<void>(new std::list<Transfer>(std::move(sending_)));
  static_cast<void>(new std::list<Transfer>(std::move(receiving_)));
}

bool MessageChannel::is_complete(Transfer& transfer) const {
  int done = 0;
  VAX_MPI(comm_->get(), MPI_Test(&transfer.request, &done, MPI_STATUS_IGNORE));
  return done != 0;
}

void MessageChannel::drop_sent() {
  std::erase_if(sending_, [this](Transfer& transfer) { return is_complete(transfer); });
}

void MessageChannel::send(int to, int kind, const std::string& text) {
  drop_sent();
  Transfer& transfer = sending_.emplace_back(Transfer{{to, kind, text}});
  const int code = MPI_Isend(transfer.message.text.data(), narrow<int>(text.size()), MPI_CHAR, to,
                             kind, comm_->get(), &transfer.request);
  if (code != MPI_SUCCESS) sending_.pop_back();
  check_mpi(code, "MPI_Isend", comm_->get());
}

std::optional<MessageChannel::Message> MessageChannel::receive() {
  int found = 0;
  MPI_Message handle = MPI_MESSAGE_NULL;
  MPI_Status status;
  VAX_MPI(comm_->get(),
          MPI_Improbe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm_->get(), &found, &handle, &status));
  if (found) {
    int length = 0;
    VAX_MPI(comm_->get(), MPI_Get_count(&status, MPI_CHAR, &length));
    Transfer& transfer = receiving_.emplace_back(Transfer{
        {status.MPI_SOURCE, status.MPI_TAG, std::string(static_cast<size_t>(length), '\0')}});
    VAX_MPI(comm_->get(),
            MPI_Imrecv(transfer.message.text.data(), length, MPI_CHAR, &handle, &transfer.request));
  }
  for (auto transfer = receiving_.begin(); transfer != receiving_.end(); ++transfer) {
    if (!is_complete(*transfer)) continue;
    Message message = std::move(transfer->message);
    receiving_.erase(transfer);
    return message;
  }
  return std::nullopt;
}

void MessageChannel::barrier() { VAX_MPI(comm_->get(), MPI_Barrier(comm_->get())); }

}  // namespace vax::dist
