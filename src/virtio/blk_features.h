// SPDX-License-Identifier: Apache-2.0
// What the feature bits of a virtio block device mean together, for our own device and for one that another process serves.
#pragma once

#include <linux/virtio_blk.h>

#include "virtio/device.h"

namespace vireo::virtio {

// 5.2.5.2: a driver that has accepted to switch the cache but could not flush it gets none.
constexpr bool forbid_cache(uint64_t accepted) { return accepted & bit(VIRTIO_BLK_F_CONFIG_WCE) && !(accepted & bit(VIRTIO_BLK_F_FLUSH)); }

}  // namespace vireo::virtio
