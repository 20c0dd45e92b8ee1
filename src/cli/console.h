// SPDX-License-Identifier: Apache-2.0
// The keys behind Ctrl-A on the machine's terminal, and the small prompt of Ctrl-A c.
#pragma once

#include <string>

#include "machine/char_fd.h"
#include "machine/machine.h"

namespace vireo::cli {

class Console {
 public:
  Console(Machine& machine, CharFd& terminal);

 private:
  std::string filter(std::string bytes);
  void prompt_byte(char byte);
  void execute(const std::string& line);

  Machine& machine_;
  CharFd& terminal_;
  bool escaped_ = false;
  bool prompt_ = false;
  std::string line_;
};

}  // namespace vireo::cli
