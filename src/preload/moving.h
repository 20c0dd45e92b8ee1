// SPDX-License-Identifier: Apache-2.0
// Private memory of the program moves into a file at the same address, and home again.
#pragma once

#include <cstdint>

#include "preload/mappings.h"
#include "preload/range.h"

namespace vireo::preload {

constexpr uint64_t kLeastMoved = 2 << 20;  // smaller memory is no operating system's

// May private memory become a file's and be the same for the program?
bool may_move(const Mapping& m, uintptr_t begin, uintptr_t end);

// A range whose addresses are known gets its file, and what it held is in it. Nobody may write there meanwhile, as nobody does who is about to give it to
// a guest. False: it stays where it is.
bool move_into_file(const Mapping& m, Range& range);

// A part of one range becomes private memory. False: there is no memory for it.
bool move_home(const Range& r, uintptr_t begin, uintptr_t end);

}  // namespace vireo::preload
