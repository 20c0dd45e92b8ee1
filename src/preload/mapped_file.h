// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "base/owned_fd.h"
#include "preload/mappings.h"

namespace vireo::preload {

// A descriptor of the file that is mapped there: the mapping's own, for which a right is needed, or one that the program has open. Or null.
std::shared_ptr<const OwnedFd> file_of(const Mapping& m);

}  // namespace vireo::preload
