// SPDX-License-Identifier: Apache-2.0
// A guest kernel's symbols, as --guest-symbols takes them: all of the input is the file.
#include <cstdint>
#include <cstdlib>

#include "softkvm/translate/guest_symbols.h"

using namespace vireo::softkvm;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto symbols = GuestSymbols::parse({reinterpret_cast<const char*>(data), size});
  if (!symbols) return 0;
  if (symbols->count() == 0) abort();
  for (uint64_t address : {uint64_t{0}, uint64_t{0xffffffff81000010}, ~uint64_t{0}}) (void)symbols->name(address);
  return 0;
}
