// SPDX-License-Identifier: Apache-2.0
// Keeps two programs from using one image in ways that would destroy it: one writer, or any number of readers. The locks
// are shared with QEMU's tools, which then see ours and we theirs.
// Protocol: open file description locks (fcntl(2)) on single bytes: byte 100+p read-locked says "I do p", byte 200+p "I
// cannot live with others doing p"; p is 0 consistent read, 1 write, 2 write unchanged data, 3 resize.
#pragma once

#include <string>

#include "base/result.h"

namespace vireo::storage {

// Held until the last descriptor of this open file is closed. kBusy when somebody else's use forbids ours. `name` is for
// messages. `share_writers`: others may write meanwhile, and what is read may then be in between two states.
Result<> lock_image(int fd, bool writable, const std::string& name, bool share_writers = false);

}  // namespace vireo::storage
