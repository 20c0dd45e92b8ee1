// SPDX-License-Identifier: Apache-2.0
// That every library which the program loads late is there in the versions that it was built for. (What each is used for, the rooms' tests hold.)
#include <gtest/gtest.h>

#include "base/delay_load.h"

VIREO_DELAY_LOADED(crypto);
VIREO_DELAY_LOADED(deflate);
VIREO_DELAY_LOADED(gcrypt);
VIREO_DELAY_LOADED(lz4);
VIREO_DELAY_LOADED(lzma);
VIREO_DELAY_LOADED(nbd);
VIREO_DELAY_LOADED(slirp);
VIREO_DELAY_LOADED(ssl);
VIREO_DELAY_LOADED(uring);
VIREO_DELAY_LOADED(zlib);
VIREO_DELAY_LOADED(zstd);

namespace vireo {
namespace {

TEST(DelayedLibraries, AllLoad) {
  for (DelayedLibrary* library :
       {&vireo_delay_load_crypto, &vireo_delay_load_deflate, &vireo_delay_load_gcrypt, &vireo_delay_load_lz4, &vireo_delay_load_lzma, &vireo_delay_load_nbd,
        &vireo_delay_load_slirp, &vireo_delay_load_ssl, &vireo_delay_load_uring, &vireo_delay_load_zlib, &vireo_delay_load_zstd}) {
    auto result = load_library(*library);
    EXPECT_TRUE(result) << library->soname << ": " << result.error().message;
  }
}

}  // namespace
}  // namespace vireo
