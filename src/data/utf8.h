// UTF-8 as Unicode defines it: shortest form only, no surrogates, at most U+10FFFF. Everything that
// reads text from outside (records, templates, tokenizer files) checks it here, once; the tokenizer
// replaces what is left by U+FFFD, byte by byte, as SentencePiece does. Pure functions.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace vax::data {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// Bytes (1 to 4) of the well-formed character at the start of `text`; 0 when there is none.
size_t utf8_char_length(std::string_view text);

// Offset of the first byte that starts no well-formed character; empty when all of it is valid.
std::optional<size_t> find_invalid_utf8(std::string_view text);

}  // namespace vax::data
