// Owns an MPI communicator (error handler MPI_ERRORS_RETURN, so that failures become CommError).
// Move-only. MPI headers stay in the .cpp files of this folder.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "dist/collectives.h"

namespace vax::dist {

class Communicator {
 public:
  // COLLECTIVE over all ranks: a duplicate of MPI_COMM_WORLD. REQUIRES a live Environment.
  static Communicator world();

  Communicator(Communicator&&) noexcept;
  Communicator& operator=(Communicator&&) noexcept;
  ~Communicator();

  int rank() const;
  int size() const;

  // COLLECTIVE. Ranks with equal color form a group, ordered by this communicator's rank.
  Communicator split(int color) const;
  // COLLECTIVE. The ranks that share a host.
  Communicator split_by_node() const;
  Communicator duplicate() const;

  // The collectives of this group; independent of this object's life (they own a duplicate), so
  // that traffic of different users never mixes. COLLECTIVE.
  std::unique_ptr<Collectives> make_collectives() const;

  // COLLECTIVE. Every rank's text, in rank order, on every rank.
  std::vector<std::string> all_gather_text(const std::string& text) const;
  // COLLECTIVE. `text` of `root` on every rank.
  std::string broadcast_text(std::string text, int root) const;

 private:
  struct Handle;
  explicit Communicator(std::unique_ptr<Handle> handle);
  std::unique_ptr<Handle> handle_;
};

}  // namespace vax::dist
