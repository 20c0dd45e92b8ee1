// SPDX-License-Identifier: Apache-2.0
// The words of a command line, by CLI11, and what it gets wrong.
#pragma once

#include <CLI/CLI.hpp>

#include <algorithm>
#include <string>
#include <vector>

#include "base/result.h"

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

// What is said about words that are no option's: the first option among them, or the first word. `advice` may know what is meant.
inline std::string unknown_words(const std::vector<std::string>& words, std::string (*advice)(const std::string&)) {
  const auto option = std::ranges::find_if(words, [](const std::string& word) { return word.size() > 1 && word.starts_with('-'); });
  if (option == words.end()) return words.empty() ? "unknown word" : "unknown word: " + words.front();
  const std::string more = advice ? advice(*option) : "";
  return "unknown option: " + *option + (more.empty() ? "" : "; " + more);
}

// Sets what `app` declares. An error is one line, which names the command whose --help says more ("vireo run").
inline Result<> parse_words(CLI::App& app, std::vector<std::string> words, const std::string& command, std::string (*advice)(const std::string&) = nullptr) {
  words = part_empty_values(app, words);
  std::ranges::reverse(words);  // CLI11 takes its vector from the back
  try {
    app.parse(words);
  } catch (const CLI::Error& error) {
    std::string text = error.what();
    std::ranges::replace(text, '\n', ' ');
    if (dynamic_cast<const CLI::ExtrasError*>(&error)) text = unknown_words(app.remaining(), advice);
    // In CLI11's words "1 required TEXT missing", and "At Most 1 required but received 2".
    if (dynamic_cast<const CLI::ArgumentMismatch*>(&error))
      text = text.substr(0, text.find(':')) + (text.find("received") == std::string::npos ? ": a value is missing" : ": given more than once");
    return fail(ErrorKind::kInvalid, text + " (see " + command + " --help)");
  }
  return {};
}

}  // namespace vireo::cli
