// SPDX-License-Identifier: Apache-2.0
// Changes of a backing chain under a running guest: a layer put in another's place, opened anew for writing, or named differently in its
// overlay's header.
#pragma once

#include "storage/jobs/live_disk.h"
#include "storage/qcow2/qcow2.h"

namespace vireo::storage {

// From the top down.
std::vector<std::shared_ptr<Image>> layers(const std::shared_ptr<Image>& top);
inline qcow2::Qcow2* as_qcow2(Image& image) { return dynamic_cast<qcow2::Qcow2*>(&image); }
// The name that goes into an overlay's header.
std::string absolute_name(Image& image);

// The layer right above `below`; null: it is the top, or not in the chain.
std::shared_ptr<Image> overlay_of(LiveDisk& disk, const Image& below);

// The same image, writable or not, in the place of `layer`, which must not be used afterwards. Its locks follow.
Result<std::shared_ptr<Image>> reopen_layer(LiveDisk& disk, std::shared_ptr<Image> layer, bool writable);
// After a job that had to write to it. A layer that cannot be had read-only again stays, with a warning; null then.
std::shared_ptr<Image> give_back_layer(LiveDisk& disk, std::shared_ptr<Image> layer);

// The header of `overlay` says that its backing file is `name`; empty: none. Not for a chain in memory: see set_backing(). An image that is
// read-only is opened for writing for a moment.
Result<> write_backing_name(Image& overlay, const std::string& name, const std::string& format, const OpenOptions& how);

// A new qcow2 or raw file, opened for writing without its backing file.
struct NewImage {
  std::string path, format = "qcow2";
  uint64_t size = 0;
  std::string backing, backing_format;
  bool create = true;  // false: it is there
};
Result<std::shared_ptr<Image>> make_image(const NewImage& wish, const OpenOptions& how);

}  // namespace vireo::storage
