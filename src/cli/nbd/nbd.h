// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/owned_fd.h"
#include "base/result.h"

namespace vireo::cli::nbd {

// A socket that listens: a path, or an address and port. An existing socket at the path is taken over when nobody answers.
Result<OwnedFd> listen_unix(const std::string& path);
Result<OwnedFd> listen_tcp(const std::string& address, const std::string& port);

// The whole tool; argv[0] is what its messages begin with.
int run(int argc, char** argv);

}  // namespace vireo::cli::nbd
