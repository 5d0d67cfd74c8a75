#include "data_test_support.h"

#include <zlib.h>

#include <atomic>
#include <bit>
#include <fstream>

#include "base/error.h"

#include <unistd.h>

namespace vax::data::test {

TemporaryDirectory::TemporaryDirectory() {
  static std::atomic<int> count{0};
  path_ = std::filesystem::temp_directory_path() /
          cat("vax_data_test_", ::getpid(), "_", count.fetch_add(1));
  std::filesystem::create_directories(path_);
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::filesystem::path TemporaryDirectory::write(const std::string& name,
                                                std::string_view content) const {
  const std::filesystem::path file = path_ / name;
  std::ofstream out(file, std::ios::binary);
  out << content;
  out.close();
  VAX_CHECK(out.good(), "cannot write ", file.string());
  return file;
}

std::string gzip(std::string_view text) {
  z_stream stream{};
  VAX_CHECK(::deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string input(text);
  std::string output(::deflateBound(&stream, static_cast<uLong>(input.size())) + 32, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(input.data());
  stream.avail_in = static_cast<uInt>(input.size());
  stream.next_out = reinterpret_cast<Bytef*>(output.data());
  stream.avail_out = static_cast<uInt>(output.size());
  VAX_CHECK(::deflate(&stream, Z_FINISH) == Z_STREAM_END);
  output.resize(output.size() - stream.avail_out);
  ::deflateEnd(&stream);
  return output;
}

std::string wire_varint(uint64_t value) {
  std::string bytes;
  while (value >= 0x80) {
    bytes += static_cast<char>((value & 0x7F) | 0x80);
    value >>= 7;
  }
  return bytes + static_cast<char>(value);
}

std::string wire_field(uint32_t number, uint64_t value) {
  return wire_varint(uint64_t{number} << 3) + wire_varint(value);
}

std::string wire_field(uint32_t number, std::string_view bytes) {
  return wire_varint((uint64_t{number} << 3) | 2) + wire_varint(bytes.size()) + std::string(bytes);
}

std::string wire_field(uint32_t number, float value) {
  std::string bytes = wire_varint((uint64_t{number} << 3) | 5);
  const auto bits = std::bit_cast<uint32_t>(value);
  for (unsigned shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(bits >> shift);
  return bytes;
}

std::string piece_bytes(const Piece& piece) {
  return wire_field(1, wire_field(1, piece.text) + wire_field(2, piece.score) +
                           wire_field(3, static_cast<uint64_t>(piece.type)));
}

void ModelWriter::add_merges(std::initializer_list<std::string_view> texts) {
  for (const std::string_view text : texts)
    pieces.push_back({.text = std::string(text),
                      .score = -static_cast<float>(pieces.size()),
                      .type = PieceType::kNormal});
}

void ModelWriter::add(std::string_view text, PieceType type) {
  pieces.push_back({.text = std::string(text), .score = 0, .type = type});
}

std::string ModelWriter::bytes() const {
  std::string file;
  for (const Piece& piece : pieces) file += piece_bytes(piece);
  file += wire_field(2, wire_field(3, model_type) +
                            wire_field(24, uint64_t{treat_whitespace_as_suffix}) +
                            wire_field(35, uint64_t{byte_fallback}));
  file += wire_field(3, wire_field(1, rule) + wire_field(2, charsmap) +
                            wire_field(3, uint64_t{add_dummy_prefix}) +
                            wire_field(4, uint64_t{remove_extra_whitespaces}));
  return file;
}

SentencePieceModel ModelWriter::parse() const {
  return parse_sentencepiece_model(bytes(), "test.model");
}

Tokenizer ModelWriter::load() const {
  const TemporaryDirectory directory;
  return Tokenizer::load(directory.write("tokenizer.model", bytes()));
}

ModelWriter llama_like_model() {
  ModelWriter writer;
  writer.add("<unk>", PieceType::kUnknown);
  writer.add("<s>", PieceType::kControl);
  writer.add("</s>", PieceType::kControl);
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  for (size_t byte = 0; byte < 256; ++byte)
    writer.add(cat("<0x", kDigits[byte / 16], kDigits[byte % 16], ">"), PieceType::kByte);
  writer.add_merges({"▁", "a", "b", "c", "d", "e", "ab", "▁ab", "cd", "▁▁", "abcd"});
  return writer;
}

}  // namespace vax::data::test
