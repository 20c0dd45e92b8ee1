#pragma once
#include "softkvm/cpu/decode_words.h"
namespace vireo::softkvm::tables {
using namespace words;
using enum Mnemonic;
constexpr Row kVexMap1[] = {plain(0x77 | NP, kEmms, {}, F::kMmx)};
constexpr Row kVexMap2[] = {plain(0x77 | NP, kEmms, {}, F::kMmx)};
constexpr Row kVexMap3[] = {plain(0x77 | NP, kEmms, {}, F::kMmx)};
}
