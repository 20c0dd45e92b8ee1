// SPDX-License-Identifier: Apache-2.0
// img bitmap: changes of the dirty bitmaps in an image; and copying them along with `convert --bitmaps`.
#include <bit>
#include <cstdio>

#include "cli/img/bitmap.h"

namespace vireo::cli::img {
namespace {

namespace qcow2 = storage::qcow2;
std::unexpected<Error> bad(const std::string& why) { return fail(ErrorKind::kInvalid, why, EINVAL); }

Result<unsigned> parse_granularity(const std::string& text) {
  auto bytes = parse_bytes(text);
  if (!bytes || *bytes == 0 || *bytes > UINT32_MAX) return bad("Invalid granularity specified");
  if (!std::has_single_bit(*bytes)) return bad("Granularity must be power of 2");
  return static_cast<unsigned>(std::countr_zero(*bytes));
}

// QEMU's: a cluster, but no less than 4 and no more than 64 KiB.
unsigned default_granularity(const qcow2::Qcow2& image) {
  return static_cast<unsigned>(std::countr_zero(std::clamp<uint64_t>(image.cluster_size(), 4096, 65536)));
}

Result<> merge(qcow2::Qcow2& to, const std::string& name, qcow2::Qcow2& from, const std::string& source) {
  const qcow2::BitmapBits* bits = TRY(from.bitmap_bits(source));
  qcow2::BitmapBits* into = TRY(to.edit_bitmap(name));
  if (bits->disk_size() != into->disk_size()) return bad("Bitmaps are of different sizes (destination size is " + std::to_string(into->disk_size()) + ", source size is " + std::to_string(bits->disk_size()) + ")");
  into->merge(*bits);
  return {};
}

}  // namespace

Result<> bitmaps_can_be_copied(Image& source, bool skip_broken) {
  auto* from = as_qcow2(source);
  for (size_t i = from ? from->bitmaps().size() : 0; i-- > 0;) {  // the newest first, as QEMU tells them
    const qcow2::Bitmap& b = from->bitmaps()[i];
    if (!b.inconsistent() && !b.foreign()) continue;
    if (!skip_broken)
      return bad("Cannot copy inconsistent bitmap '" + b.name + "'\nTry --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it");
    fprintf(stderr, "qemu-img: warning: Skipping inconsistent bitmap '%s'\n", b.name.c_str());
  }
  return {};
}

Result<> copy_bitmaps(Image& source, Image& target) {
  auto* from = as_qcow2(source);
  auto* to = as_qcow2(target);
  for (size_t i = 0; from && to && i < from->bitmaps().size(); ++i) {
    const qcow2::Bitmap& b = from->bitmaps()[i];
    if (b.inconsistent() || b.foreign()) continue;
    if (auto added = to->add_bitmap(b.name, b.granularity_bits, b.enabled()); !added)
      return std::unexpected(std::move(added).error().within("Failed to create bitmap " + b.name));
    if (auto merged = merge(*to, b.name, *from, b.name); !merged)
      return std::unexpected(std::move(merged).error().within("Failed to populate bitmap " + b.name));
  }
  return {};
}

Result<int> bitmap(int argc, char** argv) {
  // The actions are done in the order in which they stand.
  enum class Do { kAdd, kRemove, kClear, kEnable, kDisable, kMerge };
  struct Action {
    Do what;
    std::string source;
  };
  std::vector<Action> actions;
  std::vector<char*> rest;
  for (int i = 0; i < argc; ++i) {
    std::string word = argv[i];
    static constexpr std::pair<const char*, Do> kWords[] = {
        {"--add", Do::kAdd}, {"--remove", Do::kRemove}, {"--clear", Do::kClear}, {"--enable", Do::kEnable}, {"--disable", Do::kDisable}};
    bool known = false;
    for (auto& [name, what] : kWords)
      if (word == name) actions.push_back({what, ""}), known = true;
    if (word == "--merge") {
      if (i + 1 == argc) return bad("option '--merge' requires an argument");
      actions.push_back({Do::kMerge, argv[++i]});
    } else if (word.starts_with("--merge=")) {
      actions.push_back({Do::kMerge, word.substr(8)});
    } else if (!known) {
      rest.push_back(argv[i]);
    }
  }
  const int count = static_cast<int>(rest.size());
  rest.push_back(nullptr);
  Arguments a = TRY(parse_arguments(count, rest.data(), "b:f:F:g:U", {"image-opts", "source-file=b", "source-format=F", "granularity=g"}));
  if (a.names.size() != 2) return bad("Expecting filename and bitmap name");
  if (actions.empty()) return bad("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
  bool adds = false, merges = false, enables = false, disables = false;
  for (const Action& action : actions) {
    adds |= action.what == Do::kAdd;
    merges |= action.what == Do::kMerge;
    enables |= action.what == Do::kEnable;
    disables |= action.what == Do::kDisable;
  }
  if (a.has("g") && !adds) return bad("granularity only supported with --add");
  if (a.has("F") && !a.has("b")) return bad("-F only supported with -b");
  if (a.has("b") && !merges) return bad("Merge bitmap source file only supported with --merge");
  const std::string& name = a.names[1];
  auto image = TRY(img::open(a.names[0], {.format = a.get("f"), .writable = true, .backing = false, .image_options = a.has("image-opts"), .no_data = true}));
  auto* q = as_qcow2(*image);
  std::shared_ptr<Image> other;
  if (a.has("b")) other = TRY(img::open(a.get("b"), {.format = a.get("F"), .backing = false, .no_data = true}));
  for (const Action& action : actions) {
    auto done = [&]() -> Result<> {
      if (!q) return bad("Cannot store dirty bitmaps in file '" + a.names[0] + "'");
      switch (action.what) {
        case Do::kAdd: {
          unsigned bits = a.has("g") ? TRY(parse_granularity(a.get("g"))) : default_granularity(*q);
          // With --disable among the actions it begins so; nothing is written in between.
          return q->add_bitmap(name, bits, !disables || enables);
        }
        case Do::kRemove: return q->remove_bitmap(name);
        case Do::kClear: TRY(q->edit_bitmap(name))->clear(); return {};
        case Do::kEnable: return q->enable_bitmap(name, true);
        case Do::kDisable: return q->enable_bitmap(name, false);
        case Do::kMerge: {
          auto* from = other ? as_qcow2(*other) : q;
          if (!from) return bad("Dirty bitmap '" + action.source + "' not found");
          return merge(*q, name, *from, action.source);
        }
      }
      return {};
    }();
    if (!done) return std::unexpected(std::move(done).error().within("Operation failed"));
  }
  TRY_VOID(image->close());
  return 0;
}

}  // namespace vireo::cli::img
