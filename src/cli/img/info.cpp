// SPDX-License-Identifier: Apache-2.0
// img info. Without --backing-chain it opens nothing that the image names.
#include <ctime>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>

#include "cli/img/encryption.h"
#include "cli/img/snapshot_list.h"
#include "storage/image/luks_image.h"

namespace vireo::cli::img {
namespace {

using json = nlohmann::ordered_json;
namespace qcow2 = storage::qcow2;

json specific(qcow2::Qcow2& image) {
  const auto& h = image.header();
  json data;
  data["compat"] = h.version == 2 ? "0.10" : "1.1";
  data["compression-type"] = h.compression == qcow2::Compression::kZstd ? "zstd" : "zlib";
  if (h.version >= 3) {
    data["lazy-refcounts"] = h.lazy_refcounts();
    json list = json::array();
    for (const qcow2::Bitmap& b : image.bitmaps()) {
      json flags = json::array();
      if (b.flags & qcow2::bitmap_flag::kInUse) flags.push_back("in-use");
      if (b.enabled()) flags.push_back("auto");
      list.push_back({{"flags", flags}, {"name", b.name}, {"granularity", 1ull << std::min(b.granularity_bits, 63u)}});
    }
    if (!list.empty()) data["bitmaps"] = list;
  }
  data["refcount-bits"] = h.geometry.refcount_bits();
  if (h.has_data_file() && !h.data_file_name().empty()) data["data-file"] = h.data_file_name();
  if (h.crypt == qcow2::Crypt::kAes) data["encrypt"] = {{"format", "aes"}};
  if (image.luks()) data["encrypt"] = describe_luks(image.luks()->header(), true);
  if (h.has_data_file()) data["data-file-raw"] = h.data_file_raw();
  if (h.version >= 3) {
    data["corrupt"] = (h.incompatible & qcow2::incompatible::kCorrupt) != 0;
    data["extended-l2"] = h.extended_l2();
  }
  return data;
}

storage::LuksImage* as_luks(Image& image) { return dynamic_cast<storage::LuksImage*>(&image); }

// Nothing: the image lies in several places, and the name is relative.
std::optional<std::string> full_backing_name(Image& image) {
  const std::string place = image.file().place(), name = as_qcow2(image)->header().backing_file;
  std::string full = storage::resolve_backing(place, name);
  if (place.empty() && full == name && !name.starts_with("/") && name.find(':') == std::string::npos) return std::nullopt;
  return full;
}

bool encrypted(Image& image) {
  auto* q = as_qcow2(image);
  return as_luks(image) || (q && q->header().crypt != qcow2::Crypt::kNone);
}

json describe(Image& image, const std::string& name) {
  json out;
  auto* q = as_qcow2(image);
  if (q && !q->snapshots().empty()) {
    json list = json::array();
    for (const auto& s : q->snapshots())
      list.push_back({{"icount", s.icount}, {"vm-clock-nsec", s.vm_clock_nsec % 1000000000}, {"name", s.name}, {"date-sec", s.date_sec},
                      {"date-nsec", s.date_nsec}, {"vm-clock-sec", s.vm_clock_nsec / 1000000000}, {"id", s.id}, {"vm-state-size", s.vm_state_size}});
    out["snapshots"] = list;
  }
  if (q && q->header().has_backing && !q->header().backing_format().empty()) out["backing-filename-format"] = q->header().backing_format();
  out["virtual-size"] = image.size();
  out["filename"] = name;
  if (q) out["cluster-size"] = q->cluster_size();
  out["format"] = image.format();
  out["actual-size"] = image.file().allocated();
  if (q) out["format-specific"] = {{"type", "qcow2"}, {"data", specific(*q)}};
  if (auto* luks = as_luks(image)) out["format-specific"] = {{"type", "luks"}, {"data", describe_luks(luks->luks().header(), false)}};
  if (q && q->header().has_backing) {
    if (full_backing_name(image)) out["full-backing-filename"] = *full_backing_name(image);
    out["backing-filename"] = q->header().backing_file;
  }
  if (encrypted(image)) out["encrypted"] = true;
  out["dirty-flag"] = q && q->header().incompatible & qcow2::incompatible::kDirty;
  return out;
}

void print_value(const json& value, const std::string& name, int indent) {
  std::string label = name;
  for (char& c : label)
    if (c == '-') c = ' ';
  std::string space(static_cast<size_t>(indent) * 4, ' ');
  if (value.is_array() || value.is_object()) {
    printf("%s%s:\n", space.c_str(), label.c_str());
    size_t i = 0;
    for (auto& item : value.items()) print_value(item.value(), value.is_array() ? "[" + std::to_string(i++) + "]" : item.key(), indent + 1);
    return;
  }
  printf("%s%s: %s\n", space.c_str(), label.c_str(), value.is_string() ? value.get<std::string>().c_str() : value.dump().c_str());
}

void print_human(Image& image, const std::string& name) {
  auto* q = as_qcow2(image);
  printf("image: %s\nfile format: %s\nvirtual size: %s (%llu bytes)\ndisk size: %s\n", name.c_str(), image.format(), human_size(image.size()).c_str(),
         static_cast<unsigned long long>(image.size()), human_size(image.file().allocated()).c_str());
  if (encrypted(image)) printf("encrypted: yes\n");
  auto details_of = [](const json& details) {
    printf("Format specific information:\n");
    for (auto& item : details.items()) print_value(item.value(), item.key(), 1);
  };
  if (auto* luks = as_luks(image)) details_of(describe_luks(luks->luks().header(), false));
  if (!q) return;
  printf("cluster_size: %llu\n", static_cast<unsigned long long>(q->cluster_size()));
  if (q->header().incompatible & qcow2::incompatible::kDirty) printf("cleanly shut down: no\n");
  if (q->header().has_backing) {
    auto full = full_backing_name(image);
    printf("backing file: %s", q->header().backing_file.c_str());
    if (!full) printf(" (cannot determine actual path)");
    else if (*full != q->header().backing_file) printf(" (actual path: %s)", full->c_str());
    printf("\n");
    if (std::string format = q->header().backing_format(); !format.empty()) printf("backing file format: %s\n", format.c_str());
  }
  print_snapshots(*q);
  print_format_specific(*q);
}

}  // namespace

void print_format_specific(qcow2::Qcow2& image) {
  printf("Format specific information:\n");
  json details = specific(image);
  for (auto& item : details.items()) print_value(item.value(), item.key(), 1);
}

void print_snapshots(const qcow2::Qcow2& image) {
  if (image.snapshots().empty()) return;
  printf("Snapshot list:\n%-10s%-17s%8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
  for (const auto& s : image.snapshots()) {
    time_t when = s.date_sec;
    tm parts;
    localtime_r(&when, &parts);
    char date[64], clock[64];
    strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &parts);
    uint64_t seconds = s.vm_clock_nsec / 1000000000;
    snprintf(clock, sizeof clock, "%02d:%02d:%02d.%03d", static_cast<int>(seconds / 3600), static_cast<int>(seconds / 60 % 60),
             static_cast<int>(seconds % 60), static_cast<int>(s.vm_clock_nsec / 1000000 % 1000));
    std::string icount = s.icount == UINT64_MAX ? "" : std::to_string(s.icount);
    printf("%-9s %-16s %8s%20s%13s%11s\n", s.id.c_str(), s.name.c_str(), human_size(s.vm_state_size).c_str(), date, clock, icount.c_str());
  }
}

Result<int> info(int argc, char** argv) {
  Arguments a = TRY(parse_arguments(argc, argv, "f:U", {"output:", "backing-chain", "image-opts", "force-share=U"}));
  if (a.names.size() != 1) return fail(ErrorKind::kInvalid, "Expecting one image file name");
  Output output = TRY(parse_output(a));
  OpenWish wish{.format = a.get("f"), .backing = false, .force_share = a.has("U"), .image_options = a.has("image-opts"), .no_data = true};
  json chain = json::array();
  std::vector<std::string> seen;
  std::vector<std::shared_ptr<Image>> images;  // told when the whole chain is known to be sound
  for (std::string name = a.names[0]; !name.empty();) {
    if (std::find(seen.begin(), seen.end(), name) != seen.end()) return fail(ErrorKind::kCorrupt, "Backing file '" + name + "' creates an infinite loop.");
    if (seen.size() >= storage::kDeepestChain) return fail(ErrorKind::kCorrupt, "the backing chain is deeper than " + std::to_string(storage::kDeepestChain));
    auto image = TRY(img::open(name, wish));
    if (output == Output::kJson) chain.push_back(describe(*image, seen.empty() ? image->name() : name));
    seen.push_back(name);
    images.push_back(image);
    auto* q = as_qcow2(*image);
    if (!a.has("backing-chain") || !q || !q->header().has_backing) break;
    wish = {.format = q->header().backing_format(), .backing = false, .force_share = a.has("U"), .no_data = true};
    auto full = full_backing_name(*image);
    if (!full) return fail(ErrorKind::kInvalid, "Cannot generate a base directory for '" + image->name() + "'");
    name = *full;
  }
  if (output == Output::kJson) printf("%s\n", (a.has("backing-chain") ? chain : chain[0]).dump(4, ' ', false, json::error_handler_t::replace).c_str());
  for (size_t i = 0; output == Output::kHuman && i < images.size(); ++i) {
    if (i) printf("\n");
    print_human(*images[i], i == 0 ? images[i]->name() : seen[i]);
  }
  return 0;
}

}  // namespace vireo::cli::img
