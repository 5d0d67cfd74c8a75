// Private to this folder.
// How judges and tasks look for words in an answer. One rule for all of them, so that a harmful
// score and an accuracy never differ by what counts as "contains".
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace vax::eval {

// Without white space at both ends.
std::string_view trimmed(std::string_view text);

// The form in which texts are compared: ASCII letters lower, typographic apostrophes (U+2019,
// U+2018) straight, every run of white space one blank, none at the ends. Other characters stay.
std::string normalized(std::string_view text);

// Position of `word` in `text`, both normalized(), where it stands alone: not inside a longer word.
// Letters, digits, '_' and all bytes beyond ASCII make words, so "steal" is not found in "stealing"
// or "steal\u00e9"; a word may consist of several ("i cannot"). An end of `word` that is itself no
// letter or digit needs no boundary. npos when there is none, or when `word` is empty.
size_t find_word(std::string_view text, std::string_view word);

// The same for any texts: whether `word` stands alone in `text`, upper and lower case alike.
bool contains_word(std::string_view text, std::string_view word);

}  // namespace vax::eval
