#include "data/text_file.h"

#include <zlib.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/sha256.h"
#include "data/utf8.h"

namespace vax::data {
namespace {

namespace fs = std::filesystem;

// Owns zlib's state for one or more gzip members laid end to end.
class GzipReader {
 public:
  explicit GzipReader(const fs::path& path) : path_(path) {
    constexpr int kGzipOnly = 16 + MAX_WBITS;
    if (::inflateInit2(&stream_, kGzipOnly) != Z_OK)
      throw DataError(cat(path_.string(), ": cannot start zlib"));
  }
  ~GzipReader() { ::inflateEnd(&stream_); }
  GzipReader(const GzipReader&) = delete;
  GzipReader& operator=(const GzipReader&) = delete;

  std::string expand(const std::string& compressed, uint64_t max_bytes) {
    std::string text;
    std::vector<char> chunk(size_t{1} << 20);
    size_t consumed = 0;
    int status = Z_OK;
    do {
      if (status == Z_STREAM_END && ::inflateReset(&stream_) != Z_OK) fail("zlib reset failed");
      status = expand_some(compressed, consumed, chunk, text);
      if (text.size() > max_bytes)
        fail(cat("expands to more than ", max_bytes, " bytes, the most that is read"));
    } while (status != Z_STREAM_END || consumed < compressed.size());
    return text;
  }

 private:
  // One call of inflate() over what is left, its output appended to `text`.
  int expand_some(const std::string& compressed, size_t& consumed, std::vector<char>& chunk,
                  std::string& text) {
    constexpr size_t kMostInput = size_t{1} << 30;  // avail_in is 32 bits wide
    const size_t input = std::min(compressed.size() - consumed, kMostInput);
    // zlib's interface lacks a const; it does not write there.
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(compressed.data() + consumed));
    stream_.avail_in = static_cast<uInt>(input);
    stream_.next_out = reinterpret_cast<Bytef*>(chunk.data());
    stream_.avail_out = static_cast<uInt>(chunk.size());
    const int status = ::inflate(&stream_, Z_NO_FLUSH);
    if (status == Z_BUF_ERROR) fail("the gzip stream is cut off");  // nothing left to read
    if (status != Z_OK && status != Z_STREAM_END)
      fail(cat("not a valid gzip stream: ", stream_.msg != nullptr ? stream_.msg : "damaged"));
    consumed += input - stream_.avail_in;
    text.append(chunk.data(), chunk.size() - stream_.avail_out);
    return status;
  }

  [[noreturn]] void fail(const std::string& reason) const {
    throw DataError(cat(path_.string(), ": ", reason));
  }

  const fs::path& path_;
  z_stream stream_{};
};

void require_utf8(const std::string& text, const fs::path& path) {
  const auto bad = find_invalid_utf8(text);
  if (!bad) return;
  const auto at = text.begin() + static_cast<std::ptrdiff_t>(*bad);
  const auto line = 1 + std::count(text.begin(), at, '\n');
  const unsigned byte = static_cast<unsigned char>(*at);
  constexpr const char* kDigits = "0123456789abcdef";
  throw DataError(cat(path.string(), ":", line, ": not valid UTF-8: byte 0x", kDigits[byte >> 4],
                      kDigits[byte & 15], " at offset ", *bad, " of the text"));
}

}  // namespace

TextFile read_text_file(const fs::path& path, uint64_t max_bytes) {
  std::error_code ignored;  // what cannot be looked at, read_file() reports with the reason
  if (fs::is_directory(path, ignored))
    throw DataError(cat(path.string(), ": expected a file, found a directory"));
  std::string bytes = read_file(path);
  TextFile file{.text = {}, .sha256 = sha256_of_text(bytes)};
  if (path.extension() == ".gz") {
    file.text = GzipReader(path).expand(bytes, max_bytes);
  } else {
    file.text = std::move(bytes);
  }
  if (file.text.size() > max_bytes)
    throw DataError(
        cat(path.string(), ": has ", file.text.size(), " bytes, expected at most ", max_bytes));
  require_utf8(file.text, path);
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (file.text.starts_with(kByteOrderMark)) file.text.erase(0, kByteOrderMark.size());
  return file;
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines.push_back(line);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

}  // namespace vax::data
