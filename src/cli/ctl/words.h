// SPDX-License-Identifier: Apache-2.0
// What the words of `vireo ctl` stand for in QMP.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"

namespace vireo::cli::ctl {

struct Word {
  const char* words;               // "block commit"
  const char* command;             // of QMP
  std::vector<const char*> places; // arguments by position; one that begins with ? may be missing
  const char* defaults;            // JSON, or null
  bool job;                        // begins one: --wait waits for its end
  const char* help;
};
const std::vector<Word>& words();
const Word* find_word(const std::vector<std::string>& given, size_t& used);  // null: none
// What may follow such a first word ("block"); "" where none is needed.
std::string second_words(const std::string& first);
// The arguments behind the word: by position, and NAME=VALUE under their names in QMP.
Result<nlohmann::json> arguments(const Word& word, const std::vector<std::string>& rest);

}  // namespace vireo::cli::ctl
