// SPDX-License-Identifier: Apache-2.0
// img resize and snapshot: changes of one image.
#include <ctime>

#include <cstdio>
#include <cstring>

#include "cli/img/img.h"
#include "cli/img/snapshot_list.h"

namespace vireo::cli::img {
namespace {

namespace qcow2 = storage::qcow2;
std::unexpected<Error> bad(const std::string& why, int code = EINVAL) { return fail(ErrorKind::kInvalid, why, code); }

}  // namespace

Result<int> resize(int argc, char** argv) {
  // "-5M" is a size here, not an option: it is taken off before.
  std::string size;
  if (argc > 1) {
    size = argv[argc - 1];
    if (!size.empty() && (size[0] == '+' || size[0] == '-' || isdigit(static_cast<unsigned char>(size[0])))) --argc;
    else size.clear();
  }
  Arguments a = TRY(parse_arguments(argc, argv, "f:q", {"preallocation:", "shrink", "image-opts"}));
  if (size.empty() && a.names.size() == 2) size = a.names[1], a.names.pop_back();
  if (a.names.size() != 1 || size.empty()) return bad("Expecting image file name and size");
  storage::Preallocation mode = storage::Preallocation::kOff;
  if (std::string text = a.get("preallocation", "off"); text == "metadata") mode = storage::Preallocation::kMetadata;
  else if (text == "falloc") mode = storage::Preallocation::kFalloc;
  else if (text == "full") mode = storage::Preallocation::kFull;
  else if (text != "off") return bad("Invalid preallocation mode '" + text + "'");
  int sign = size[0] == '+' ? 1 : size[0] == '-' ? -1 : 0;
  uint64_t number = TRY(parse_bytes(sign ? size.substr(1) : size));
  auto image = TRY(img::open(a.names[0], {.format = a.get("f"), .writable = true, .image_options = a.has("image-opts")}));
  uint64_t now = image->size();
  if (sign < 0 && number >= now) return bad("New image size must be positive");
  uint64_t target = sign > 0 ? now + number : sign < 0 ? now - number : number;
  if (target == 0) return bad("New image size must be positive");
  if (target < now && mode != storage::Preallocation::kOff) return bad("Preallocation can only be used for growing images");
  if (target < now && !a.has("shrink")) {
    fprintf(stderr, "%s: Use the --shrink option to perform a shrink operation.\n", argv[0]);
    fprintf(stderr, "%s: warning: Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an operation, make sure there is no important data there.\n", argv[0]);
    return told();
  }
  target = (target + 511) / 512 * 512;
  TRY_VOID(image->resize(target, mode));
  TRY_VOID(image->close());
  if (!a.has("q")) printf("Image resized.\n");
  return 0;
}

Result<int> snapshot(int argc, char** argv) {
  Arguments a = TRY(parse_arguments(argc, argv, "f:la:c:d:qU", {"image-opts", "force-share=U"}));
  if (a.names.size() != 1) return bad("Expecting one image file name");
  int actions = a.has("l") + a.has("a") + a.has("c") + a.has("d");
  if (actions > 1) return bad("Cannot mix '-l', '-a', '-c', '-d'");
  const bool list = actions == 0 || a.has("l");
  if (a.has("U") && !list) return bad("Cannot use -U with a writing action");
  auto image = TRY(img::open(a.names[0], {.format = a.get("f"), .writable = !list, .force_share = a.has("U"), .image_options = a.has("image-opts"), .no_data = true}));
  auto* q = as_qcow2(*image);
  if (list) {
    if (q) print_snapshots(*q);
    return 0;
  }
  const std::string name = a.get(a.has("a") ? "a" : a.has("c") ? "c" : "d");
  if (a.has("c")) {
    if (!q) return bad("Could not create snapshot '" + name + "': Operation not supported");
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (auto made = q->create_snapshot(name, static_cast<uint32_t>(now.tv_sec), static_cast<uint32_t>(now.tv_nsec)); !made) {
      int code = made.error().code ? made.error().code : EIO;
      return bad("Could not create snapshot '" + name + "': -" + std::to_string(code) + " (" + strerror(code) + ")", code);
    }
  } else if (a.has("a")) {
    int index = q ? q->find_snapshot(name) : -1;
    if (index < 0) return bad("Could not apply snapshot '" + name + "': Failed to load snapshot: No such file or directory");
    if (auto done = q->apply_snapshot(static_cast<size_t>(index)); !done) {
      Error& why = done.error();
      if (why.message.starts_with("Snapshot L1 table"))
        return bad(why.message + "\n\1Could not apply snapshot '" + name + "': Failed to load snapshot: " + strerror(why.code), why.code);
      return std::unexpected(std::move(why).within("Could not apply snapshot '" + name + "'"));
    }
  } else {
    int index = q ? q->find_snapshot(name) : -1;
    if (index < 0) return bad("Could not delete snapshot '" + name + "': snapshot not found");
    if (auto done = q->delete_snapshot(static_cast<size_t>(index)); !done) return std::unexpected(std::move(done).error().within("Could not delete snapshot '" + name + "'"));
  }
  TRY_VOID(image->close());
  return 0;
}

}  // namespace vireo::cli::img
