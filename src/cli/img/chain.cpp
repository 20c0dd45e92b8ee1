// SPDX-License-Identifier: Apache-2.0
// img commit and rebase: moving data along a backing chain.
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "cli/img/img.h"

namespace vireo::cli::img {
namespace {

namespace qcow2 = storage::qcow2;
constexpr uint64_t kPiece = 2 << 20;
std::unexpected<Error> bad(const std::string& why, int code = EINVAL) { return fail(ErrorKind::kInvalid, why, code); }

}  // namespace

bool same_file(const std::string& a, const std::string& b) {
  auto one = storage::plain_path(a), other = storage::plain_path(b);
  if (!one || !other) return a == b;
  struct stat first, second;
  return *one == *other || (stat(one->c_str(), &first) == 0 && stat(other->c_str(), &second) == 0 && first.st_dev == second.st_dev && first.st_ino == second.st_ino);
}

bool backed_by(const std::string& backing, const std::string& format, const std::string& image) {
  std::string name = backing, below_format = format;
  for (unsigned depth = 0; depth < storage::kDeepestChain; ++depth) {
    if (same_file(name, image)) return true;
    auto path = storage::plain_path(name);
    if (!path || below_format == "raw") return false;  // of another kind, which has nothing below it here
    auto file = storage::open_file({.path = *path, .read_only = true, .lock = false});
    if (!file) return false;
    auto header = qcow2::Header::read(**file, true);
    if (!header || !header->has_backing) return false;
    name = storage::resolve_backing(name, header->backing_file);
    below_format = header->backing_format();
  }
  return false;
}

Result<int> commit(int argc, char** argv) {
  Arguments a = TRY(parse_arguments(argc, argv, "f:t:b:r:dpq", {"image-opts"}));
  if (a.names.size() != 1) return bad("Expecting one image file name");
  const std::string& name = a.names[0];
  auto top = TRY(img::open(name, {.format = a.get("f"), .writable = true, .cache = a.get("t", "writeback"), .image_options = a.has("image-opts")}));
  auto* q = as_qcow2(*top);
  if (!top->backing()) return bad("Image does not have a backing file");
  // The base: named, or the next one below.
  Image* base = top->backing();
  if (a.has("b")) {
    base = nullptr;
    std::string wanted = storage::resolve_backing(name, a.get("b"));
    for (Image* i = top->backing(); i && !base; i = i->backing())
      if (same_file(i->name(), wanted)) base = i;
    if (!base) return bad("Did not find '" + a.get("b") + "' in the backing chain of '" + name + "'");
  }
  const std::string base_name = base->name(), base_format = storage::ImageSpec::is_json(base->name()) ? "" : base->format();
  const bool drop = a.has("d") || a.has("b");
  // Opened a second time, to be written: our own lock on it as a backing file must go first.
  std::shared_ptr<Image> rest;
  for (Image* i = top.get(); i; i = i->backing())
    if (i->backing() == base) {
      i->set_backing(nullptr);
      break;
    }
  OpenWish wish{.format = base_format, .writable = true, .cache = a.get("t", "writeback")};
  if (a.has("image-opts")) {
    // The password that was given for this layer.
    std::string prefix;
    for (Image* i = top.get(); i && i != base; i = i->backing() ? i->backing() : base) prefix += "backing.";
    for (auto& [key, value] : TRY(parse_options({name})))
      if (key == prefix + "key-secret" || key == prefix + "encrypt.key-secret") wish.key_secret = value;
  }
  auto target = TRY(img::open(base_name, wish));
  if (target->size() < top->size()) {
    uint64_t before = target->size();
    TRY_VOID(target->resize(top->size(), storage::Preallocation::kOff));
    // What the top does not have beyond the base's old end reads as zeroes there.
    TRY_VOID(target->write_zeroes(before, top->size() - before, true));
  }
  Progress progress(a.has("p"));
  std::vector<std::byte> buffer(kPiece);
  for (uint64_t at = 0; at < top->size();) {
    auto here = TRY(storage::status_above(*top, nullptr, at, std::min(top->size() - at, kPiece)));
    if (here.allocated) {
      if (here.zero) {
        TRY_VOID(target->write_zeroes(at, here.length, true));
      } else {
        auto piece = std::span(buffer).first(here.length);
        auto moved = top->read(at, piece);
        if (moved) moved = target->write(at, std::span<const std::byte>(piece));
        if (!moved) return bad("Block job failed: " + std::string(strerror(moved.error().code ? moved.error().code : EIO)), moved.error().code);
      }
    }
    at += here.length;
    progress.show(at, top->size());
  }
  TRY_VOID(target->flush());
  TRY_VOID(target->close());
  target.reset();
  if (!drop && q) {
    // The overlay is as good as empty now; it keeps its backing file.
    if (auto emptied = q->drop_all_data(); !emptied)
      return bad("Failed to empty " + top->name() + ": " + strerror(emptied.error().code ? emptied.error().code : EIO), emptied.error().code);
  }
  TRY_VOID(top->close());
  progress.end();
  if (!a.has("q")) printf("Image committed.\n");
  return 0;
}

Result<int> rebase(int argc, char** argv) {
  Arguments a = TRY(parse_arguments(argc, argv, "f:F:b:t:T:puqU", {"image-opts", "force-share=U"}));
  if (a.names.size() != 1) return bad("Expecting one image file name");
  if (!a.has("u") && !a.has("b")) return bad("Use backing file (-b) option for non-unsafe mode");
  if (!a.has("b")) return bad("Use backing file (-b) option");
  const std::string& name = a.names[0];
  const bool unsafe = a.has("u");
  const std::string backing = a.get("b"), format = a.get("F");
  auto image = TRY(img::open(name, {.format = a.get("f"), .writable = true, .backing = !unsafe, .cache = a.get("t", "writeback"), .image_options = a.has("image-opts")}));
  auto* q = as_qcow2(*image);
  if (!q) return bad("Could not change the backing file to '" + backing + "': file format doesn't support backing files");
  if (!backing.empty() && !format.empty() && format != "raw" && format != "qcow2" && format != "host_device" && format != "file") return bad("Invalid format name: '" + format + "'");
  if (!backing.empty() && format.empty()) return bad("Could not change the backing file to '" + backing + "': backing format must be specified");
  const std::string path = image->file().name(), below_path = storage::resolve_backing(path, backing);
  if (!backing.empty() && backed_by(below_path, format, path))
    return bad("Could not change the backing file to '" + backing + "': " + (same_file(below_path, path) ? "it is the image itself" : "the image is a backing file of it"));
  if (!unsafe) {
    std::shared_ptr<Image> below;
    if (!backing.empty()) {
      auto opened = img::open(storage::resolve_backing(name, backing), {.format = format, .cache = a.get("T", "writeback")});
      if (!opened) return std::unexpected(std::move(opened).error().within("Could not open new backing file"));
      below = std::move(*opened);
    }
    Image* old = image->backing();
    Progress progress(a.has("p"));
    std::vector<std::byte> was(kPiece), will(kPiece);
    for (uint64_t at = 0; at < image->size();) {
      auto here = TRY(image->status(at, std::min(image->size() - at, kPiece)));
      if (!here.allocated) {
        auto before = std::span(was).first(here.length), after = std::span(will).first(here.length);
        iovec one = storage::part(before.data(), before.size()), two = storage::part(after.data(), after.size());
        TRY_VOID(storage::read_padded(old, at, {&one, 1}));
        TRY_VOID(storage::read_padded(below.get(), at, {&two, 1}));
        // Only what differs, in steps of 4 KiB.
        for (uint64_t done = 0; done < here.length;) {
          uint64_t end = std::min<uint64_t>(here.length, done + 4096);
          bool same = memcmp(&before[done], &after[done], end - done) == 0;
          while (end < here.length) {
            uint64_t next = std::min<uint64_t>(here.length, end + 4096);
            if ((memcmp(&before[end], &after[end], next - end) == 0) != same) break;
            end = next;
          }
          if (!same) {
            if (storage::all_zero(&before[done], end - done)) TRY_VOID(image->write_zeroes(at + done, end - done, true));
            else TRY_VOID(image->write(at + done, std::span<const std::byte>(before).subspan(done, end - done)));
          }
          done = end;
        }
      }
      at += here.length;
      progress.show(at, image->size());
    }
    progress.end();
  }
  TRY_VOID(image->flush());
  qcow2::Header h = q->header();
  h.backing_file = backing;
  h.has_backing = !backing.empty();
  auto bytes = std::as_bytes(std::span(format));
  h.set(qcow2::extension::kBackingFormat, backing.empty() ? std::vector<std::byte>{} : std::vector<std::byte>{bytes.begin(), bytes.end()});
  TRY_VOID(q->rewrite_header(h));
  TRY_VOID(q->close());
  return 0;
}

}  // namespace vireo::cli::img
