// SPDX-License-Identifier: Apache-2.0
// A file that a command writes, under the name that its client gave.
#pragma once

#include "control/qmp/message.h"

namespace vireo::control::qmp {

// What is there under that name is written over. A FIFO without a reader, or with one that reads nothing for a second, is an error: who
// serves commands does not wait for somebody else.
Outcome<bool> write_dump(const std::string& path, const std::string& bytes);

}  // namespace vireo::control::qmp
