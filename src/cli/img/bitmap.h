// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cli/img/img.h"

namespace vireo::cli::img {

// An inconsistent bitmap is an error, or told as skipped.
Result<> bitmaps_can_be_copied(Image& source, bool skip_broken);
// Adds the source's consistent bitmaps, with their bits, to the target.
Result<> copy_bitmaps(Image& source, Image& target);

}  // namespace vireo::cli::img
