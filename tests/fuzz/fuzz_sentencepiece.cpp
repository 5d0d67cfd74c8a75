// A tokenizer.model is refused with a DataError, or any text is encoded with it into ids of its
// vocabulary.
#include <string_view>
#include <vector>

#include "base/error.h"
#include "data/bpe_encoder.h"
#include "data/sentencepiece_model.h"
#include "data/utf8.h"
#include "memory_file.h"

namespace {

using vax::fuzz::require;

void check_model(const vax::data::SentencePieceModel& model) {
  const auto num_pieces = static_cast<int64_t>(model.pieces.size());
  for (const vax::data::Piece& piece : model.pieces) {
    require(!piece.text.empty() && !vax::data::find_invalid_utf8(piece.text));
    require(piece.score - piece.score == 0);
  }
  for (const int64_t id : {model.bos_id, model.eos_id, model.pad_id})
    require(id >= -1 && id < num_pieces);
  require(model.unk_id >= 0 && model.unk_id < num_pieces);
}

void encode(const vax::data::SentencePieceModel& model, std::string_view text) {
  const vax::data::BpeEncoder encoder(model);
  std::vector<int64_t> ids;
  encoder.encode(text, ids);
  for (const int64_t id : ids) require(id >= 0 && id < static_cast<int64_t>(model.pieces.size()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const vax::data::SentencePieceModel model =
        vax::data::parse_sentencepiece_model(bytes, "tokenizer.model");
    check_model(model);
    encode(model, "  Hello  world\xE2\x96\x81 <s>\xff\xc3\xa9 aaaaaaaa abab ");
    encode(model, bytes.substr(0, 2048));  // the pieces themselves, among other things
  } catch (const vax::DataError&) {
  }
  return 0;
}
