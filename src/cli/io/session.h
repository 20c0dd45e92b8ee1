// SPDX-License-Identifier: Apache-2.0
// What the commands of one run share: the image, and how it is opened again.
#pragma once

#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "cli/img/img.h"

namespace vireo::cli::io {

struct Session {
  std::shared_ptr<storage::Image> image;
  std::string name;
  img::OpenWish wish;
  bool temporary = false;  // what is written is lost at the end
  bool quit = false;
  std::vector<std::thread> later;  // operations that breakpoints may hold up
};

Result<> open(Session& session, const std::string& name, const img::OpenWish& wish, bool temporary = false);
// Opens it anew as its last opening and these options together say. What cannot be changed is refused before anything is closed.
Result<> reopen(Session& session, const img::OpenWish& wish, const img::OptionList& options);
void finish_later(Session& session);  // waits for them
Result<> close(Session& session);

// A line on stderr that begins with the program's name. False, for those who return it.
bool complain(const std::string& text);

// One command line. False: it failed, which has been told.
bool execute(Session& session, const std::string& line);

// "1.5 MiB", "512 bytes".
std::string size_text(double bytes);
struct Took {
  std::chrono::steady_clock::time_point from = std::chrono::steady_clock::now();
};
// The two lines after an operation, or the one that machines read.
void report(const char* verb, const Took& took, uint64_t offset, uint64_t wanted, uint64_t done, bool for_machines);
void dump(std::span<const std::byte> bytes, uint64_t offset);

// The whole tool.
int run(int argc, char** argv);

}  // namespace vireo::cli::io
