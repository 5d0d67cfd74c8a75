// Lets Python ask the tokenizer: `tokenize_lines MODEL [--parse-special]` reads a JSON array from
// standard input, whose elements are strings to encode or arrays of ids to decode, and writes a
// JSON array of {"ids", "decoded"}.
#include <cstdint>
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

int main(int argc, char** argv) {
  try {
    const bool parse_special = argc == 3 && std::string_view(argv[2]) == "--parse-special";
    if (argc != 2 && !parse_special) {
      std::cerr << "usage: tokenize_lines MODEL [--parse-special] < strings.json\n";
      return 2;
    }
    const auto tokenizer = vax::data::Tokenizer::load(argv[1]);
    nlohmann::json answers = nlohmann::json::array();
    for (const auto& item : nlohmann::json::parse(std::cin)) {
      const auto ids = item.is_array() ? item.get<std::vector<int64_t>>()
                                       : tokenizer.encode(item.get<std::string>(), parse_special);
      answers.push_back({{"ids", ids}, {"decoded", tokenizer.decode(ids)}});
    }
    std::cout << answers.dump() << '\n';
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "tokenize_lines: " << error.what() << '\n';
    return 1;
  }
}
