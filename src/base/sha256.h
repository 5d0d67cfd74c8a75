// SHA-256 of files and strings (FIPS 180-4, through OpenSSL), as lower-case hexadecimal.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace vax {

std::string sha256_of_text(std::string_view text);
// THROWS DataError when the file cannot be read.
std::string sha256_of_file(const std::filesystem::path& path);

}  // namespace vax
