// SPDX-License-Identifier: Apache-2.0
// From a file name to an image with its backing chain. A format is probed only when the caller says so; a backing file's
// format is what its overlay's header says, and only without that it is probed, since a raw disk's first bytes are a
// guest's to write. Names may say more than a file: json:{...} and blkdebug:rules:file, as in QEMU's tools (spec.h).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "storage/image/image.h"
#include "storage/qcow2/qcow2.h"
#include "storage/spec.h"

namespace vireo::storage {

struct OpenOptions {
  std::string format;  // raw, qcow2, luks; empty: probe
  bool read_only = true;
  bool backing = true;        // follow the chain
  bool direct = false, no_flush = false;
  bool lock = true, share_writers = false;
  bool discard = true;
  bool repair_dirty = true;   // an image that was not closed cleanly is recounted when opened for writing
  qcow2::OpenConfig qcow2;
  // Passwords of encrypted layers, by their depth from the top; a layer without one of its own takes `any_key`.
  std::vector<std::optional<SecretBytes>> keys;
  std::optional<SecretBytes> any_key;
  bool named_by_image = false;  // an image says the name, and nobody else: it is followed no further than a backing file's
  std::string backing_name, backing_format;  // of the top image, instead of what it says
  ImageSpec spec;             // beside or instead of a name
  std::function<Result<SecretBytes>(const std::string& id)> find_secret;  // for options that name one
  bool no_data = false;       // encrypted images are opened without their keys; their data cannot be read or written
  std::unique_ptr<File> file;       // instead of the named one
  std::string nbd_context;          // see nbd/nbd_file.h
  std::function<std::unique_ptr<File>(std::unique_ptr<File>)> wrap;  // puts something between the top image and its file
  // What happened on the way that a person should know.
  std::function<void(const std::string&)> note;
};

inline constexpr unsigned kDeepestChain = 200;

Result<std::shared_ptr<Image>> open_image(const std::string& name, OpenOptions options);
// "raw" unless the start says otherwise.
Result<std::string> probe_format(File& file);
// A backing file's name as it is meant where the overlay lies.
std::string resolve_backing(const std::string& overlay, const std::string& backing);
// "file:" and the like are taken off; other protocols are refused.
Result<std::string> plain_path(const std::string& name);

}  // namespace vireo::storage
