// SPDX-License-Identifier: Apache-2.0
// img check: exit status 0 sound, 1 the check failed, 2 corruptions, 3 leaks only, 63 the format has no check.
#include "storage/qcow2/check.h"

#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "cli/img/img.h"

namespace vireo::cli::img {
namespace {

using json = nlohmann::ordered_json;
namespace qcow2 = storage::qcow2;
using ull = unsigned long long;

void print_json(const std::string& name, const qcow2::CheckResult& r) {
  json out;
  if (r.image_end) out["image-end-offset"] = r.image_end;
  if (r.total_clusters) out["total-clusters"] = r.total_clusters;
  out["check-errors"] = r.errors;
  if (r.corruptions) out["corruptions"] = r.corruptions;
  if (r.corruptions_fixed) out["corruptions-fixed"] = r.corruptions_fixed;
  if (r.leaks) out["leaks"] = r.leaks;
  if (r.leaks_fixed) out["leaks-fixed"] = r.leaks_fixed;
  if (r.fragmented_clusters) out["fragmented-clusters"] = r.fragmented_clusters;
  if (r.allocated_clusters) out["allocated-clusters"] = r.allocated_clusters;
  out["filename"] = name;
  out["format"] = "qcow2";
  if (r.compressed_clusters) out["compressed-clusters"] = r.compressed_clusters;
  printf("%s\n", out.dump(4, ' ', false, json::error_handler_t::replace).c_str());
}

void print_human(const qcow2::CheckResult& r) {
  if (!(r.corruptions || r.leaks || r.errors)) {
    printf("No errors were found on the image.\n");
  } else {
    if (r.corruptions)
      printf("\n%llu errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.\n", static_cast<ull>(r.corruptions));
    if (r.leaks) printf("\n%llu leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n", static_cast<ull>(r.leaks));
    if (r.errors) printf("\n%llu internal errors have occurred during the check.\n", static_cast<ull>(r.errors));
  }
  if (r.total_clusters && r.allocated_clusters) {
    double allocated = static_cast<double>(r.allocated_clusters);
    printf("%llu/%llu = %0.2f%% allocated, %0.2f%% fragmented, %0.2f%% compressed clusters\n", static_cast<ull>(r.allocated_clusters),
           static_cast<ull>(r.total_clusters), allocated * 100 / static_cast<double>(r.total_clusters),
           static_cast<double>(r.fragmented_clusters) * 100 / allocated, static_cast<double>(r.compressed_clusters) * 100 / allocated);
  }
  if (r.image_end) printf("Image end offset: %llu\n", static_cast<ull>(r.image_end));
}

}  // namespace

Result<int> check(int argc, char** argv) {
  Arguments a = TRY(parse_arguments(argc, argv, "f:r:T:qU", {"repair=r", "output:", "image-opts", "force-share=U"}));
  if (a.names.size() != 1) return fail(ErrorKind::kInvalid, "Expecting one image file name");
  Output output = TRY(parse_output(a));
  qcow2::Repair repair = qcow2::Repair::kNone;
  if (a.has("r")) {
    std::string what = a.get("r");
    if (what == "leaks") repair = qcow2::Repair::kLeaks;
    else if (what == "all") repair = qcow2::Repair::kAll;
    else return fail(ErrorKind::kInvalid, "--repair (-r) expects 'leaks' or 'all'\nTry '" + std::string(argv[0]) + " --help' for more information");
  }
  const std::string& name = a.names[0];
  const bool write = repair != qcow2::Repair::kNone, quiet = a.has("q");
  // The file alone is looked at: an image whose tables cannot even be opened can still be checked and repaired.
  std::string path = TRY(storage::plain_path(name)), format = a.get("f");
  if (a.has("image-opts"))
    for (auto& [key, value] : TRY(parse_options({name}))) {
      if (key == "driver") format = value;
      if (key == "file.filename") path = value;
    }
  auto file = storage::open_file({.path = path, .read_only = !write, .share_writers = a.has("U")});
  if (!file) return std::unexpected(std::move(file).error().within("Could not open '" + name + "'"));
  if (format.empty()) format = TRY(storage::probe_format(**file));
  if (format != "qcow2") {
    fprintf(stderr, "%s: This image format does not support checks\n", argv[0]);
    return 63;
  }
  if (auto header = qcow2::Header::read(**file, true); !header) return std::unexpected(std::move(header).error().within("Could not open '" + name + "'"));
  auto say = [&](const std::string& line) {
    if (!quiet) fprintf(stderr, "%s\n", line.c_str());
  };
  auto failed = [](Error error) -> std::unexpected<Error> {
    if (!error.message.starts_with("ERROR ")) return std::unexpected(std::move(error).within("Check failed"));
    error.message += std::string("\n\1Check failed: ") + strerror(error.code);
    return std::unexpected(std::move(error));
  };
  auto result = qcow2::check(**file, repair, say);
  if (!result) return failed(result.error());
  if (result->snapshots_to_renew && repair == qcow2::Repair::kAll) {
    file->reset();  // and its lock
    file = storage::open_file({.path = path});
    if (!file) return std::unexpected(std::move(file).error());
    TRY_VOID(qcow2::renew_snapshots(std::move(*file), nullptr, *result));
    file = storage::open_file({.path = path});
    if (!file) return std::unexpected(std::move(file).error());
  }
  if (result->corruptions_fixed || result->leaks_fixed) {
    auto fixed = *result;
    if (output == Output::kHuman && !quiet) {
      printf("The following inconsistencies were found and repaired:\n\n    %llu leaked clusters\n    %llu corruptions\n\nDouble checking the fixed image now...\n",
             static_cast<ull>(fixed.leaks_fixed), static_cast<ull>(fixed.corruptions_fixed));
    }
    result = qcow2::check(**file, qcow2::Repair::kNone, say);
    if (!result) return failed(result.error());
    result->leaks_fixed = fixed.leaks_fixed;
    result->corruptions_fixed = fixed.corruptions_fixed;
  }
  if (!quiet) output == Output::kJson ? print_json(name, *result) : print_human(*result);
  return result->errors ? 1 : result->corruptions ? 2 : result->leaks ? 3 : 0;
}

}  // namespace vireo::cli::img
