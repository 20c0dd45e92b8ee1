// SPDX-License-Identifier: Apache-2.0
// What CLI11 gets wrong in the words of a command line.
#pragma once

#include <CLI/CLI.hpp>

#include <string>
#include <vector>

namespace vireo::cli {

// CLI11 reads "--option=" as "--option" and takes the next word for its value: it is made two words, the second of them empty. Only where an
// option may stand; what stands for another's value stays as it is.
inline std::vector<std::string> part_empty_values(const CLI::App& app, const std::vector<std::string>& words) {
  std::vector<std::string> out;
  bool value = false;
  for (const std::string& word : words) {
    const size_t equals = word.find('=');
    const CLI::Option* option = value || !word.starts_with("--") ? nullptr : app.get_option_no_throw(word.substr(0, equals));
    const bool empty = option && equals != std::string::npos && equals + 1 == word.size() && option->get_items_expected_max() > 0;
    value = option && equals == std::string::npos && option->get_items_expected_min() > 0;
    out.push_back(empty ? word.substr(0, equals) : word);
    if (empty) out.emplace_back();
  }
  return out;
}

}  // namespace vireo::cli
