// SHA-256 of files and strings (FIPS 180-4, through OpenSSL), as lower-case hexadecimal.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

struct evp_md_ctx_st;  // OpenSSL's, whose headers stay in sha256.cpp

namespace vax {

// The hash of what is given piece by piece.
class Sha256 {
 public:
  Sha256();

  void update(std::span<const std::byte> bytes);
  void update(std::string_view text) { update(std::as_bytes(std::span(text))); }
  // Once, after the last piece.
  std::string finish();

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const noexcept;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

// 64 digits 0-9a-f, as every hash here is written.
bool is_sha256(std::string_view text);

std::string sha256_of_text(std::string_view text);
// THROWS DataError when the file cannot be read.
std::string sha256_of_file(const std::filesystem::path& path);

}  // namespace vax
