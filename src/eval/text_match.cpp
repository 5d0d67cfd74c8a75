#include "eval/text_match.h"

namespace vax::eval {
namespace {

constexpr std::string_view kWhitespace = " \t\n\v\f\r";

bool is_word_byte(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte >= 0x80 || byte == '_' || (byte >= '0' && byte <= '9') ||
         (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
}

bool is_typographic_apostrophe(std::string_view rest) {
  return rest.starts_with("\xE2\x80\x98") || rest.starts_with("\xE2\x80\x99");
}

// No word goes on across the place between text[at - 1] and text[at].
bool is_boundary(std::string_view text, size_t at) {
  return at == 0 || at == text.size() || !is_word_byte(text[at - 1]) || !is_word_byte(text[at]);
}

}  // namespace

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(kWhitespace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kWhitespace) - first + 1);
}

std::string normalized(std::string_view text) {
  text = trimmed(text);
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (kWhitespace.find(c) != std::string_view::npos) {
      if (result.back() != ' ') result += ' ';
    } else if (is_typographic_apostrophe(text.substr(i))) {
      result += '\'';
      i += 2;
    } else {
      result += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
  }
  return result;
}

size_t find_word(std::string_view text, std::string_view word) {
  if (word.empty()) return std::string_view::npos;
  for (size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1))
    if (is_boundary(text, at) && is_boundary(text, at + word.size())) return at;
  return std::string_view::npos;
}

bool contains_word(std::string_view text, std::string_view word) {
  return find_word(normalized(text), normalized(word)) != std::string_view::npos;
}

}  // namespace vax::eval
