#pragma once
#include "softkvm/cpu/decode_words.h"
namespace vireo::softkvm::tables {
using namespace words;
using enum Mnemonic;
constexpr Row kEvexMap1Rows[] = {plain(0x77 | NP, kEmms, {}, F::kMmx)};
constexpr Row kEvexMap2Rows[] = {plain(0x77 | NP, kEmms, {}, F::kMmx)};
constexpr Row kEvexMap3Rows[] = {plain(0x77 | NP, kEmms, {}, F::kMmx)};
constexpr Row kEvexMap5Rows[] = {plain(0x77 | NP, kEmms, {}, F::kMmx)};
constexpr Row kEvexMap6Rows[] = {plain(0x77 | NP, kEmms, {}, F::kMmx)};
}
