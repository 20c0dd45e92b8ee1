// SPDX-License-Identifier: Apache-2.0
// How a qcow2 image is to be used, by the options that QEMU's driver has for it (qemu(1), "-blockdev", driver=qcow2).
#pragma once

#include "storage/qcow2/qcow2.h"
#include "storage/spec.h"

namespace vireo::storage {

// Takes them out. Cache sizes become limits of ours; what has no meaning here (overlap checks are always on) is held to its values.
Result<> take_qcow2_options(ImageSpec& spec, const qcow2::Header& header, qcow2::OpenConfig& config);
// "on" and "off" of an option that every driver has and that changes nothing here.
Result<> check_switches(const ImageSpec& spec);

}  // namespace vireo::storage
