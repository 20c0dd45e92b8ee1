// SPDX-License-Identifier: Apache-2.0
// Shared libraries that are loaded when they are first needed, not when the program starts: most runs need none of
// them, and to load all takes longer than many a command. cmake/delay_load.cmake makes a stand-in for each function of such
// a library that we call; it jumps to the library's own once that is loaded, and loads the library before.
// A user calls load_library() before its first use, so that a library which is not installed is an error like any other. Where
// nobody did, the first call of a function ends the program with the same words.
#pragma once

#include "base/result.h"

namespace vireo {

// Made by vireo_delay_load(NAME ...) under the name vireo_delay_load_NAME; the layout is known to delay_load_macros.inc.
struct DelayedLibrary {
  const char* soname;
  const char* functions;  // name, version (or nothing), name, version, ..., nothing
  void** slots;           // of the same functions: where they are, null before the library is loaded
  unsigned loaded;
};

// Any thread, any number of times; after the first it costs a load and a branch.
Result<> load_library(DelayedLibrary& library);

}  // namespace vireo

// Declares it, outside of namespaces.
#define VIREO_DELAY_LOADED(name) extern "C" vireo::DelayedLibrary vireo_delay_load_##name
