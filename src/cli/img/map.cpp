// SPDX-License-Identifier: Apache-2.0
// img map: what lies where, through the whole chain.
#include <cinttypes>
#include <cstdio>

#include "cli/img/img.h"

namespace vireo::cli::img {
namespace {

struct Row {
  uint64_t start = 0, length = 0;
  unsigned depth = 0;
  bool present = false, zero = false, data = false;
  std::optional<uint64_t> host;
  std::string file;
};

bool follows(const Row& a, const Row& b) {
  return a.depth == b.depth && a.present == b.present && a.zero == b.zero && a.data == b.data && a.file == b.file &&
         a.host.has_value() == b.host.has_value() && (!a.host || *a.host + a.length == *b.host);
}

Result<> print(const Row& row, bool json, bool last) {
  if (!json) {
    if (row.data && !row.host) return fail(ErrorKind::kUnsupported, "File contains external, encrypted or compressed clusters.");
    if (row.data && !row.zero) printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", row.start, row.length, *row.host, row.file.c_str());
    return {};
  }
  printf("{ \"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"depth\": %u, \"present\": %s, \"zero\": %s, \"data\": %s", row.start, row.length, row.depth,
         row.present ? "true" : "false", row.zero ? "true" : "false", row.data ? "true" : "false");
  if (row.host) printf(", \"offset\": %" PRIu64, *row.host);
  printf("}%s", last ? "" : ",\n");
  return {};
}

}  // namespace

Result<int> map(int argc, char** argv) {
  Arguments a = TRY(parse_arguments(argc, argv, "f:s:l:U", {"output:", "start-offset=s", "max-length=l", "image-opts", "force-share=U"}));
  if (a.names.size() != 1) return fail(ErrorKind::kInvalid, "Expecting one image file name");
  bool json = TRY(parse_output(a)) == Output::kJson;
  uint64_t start = a.has("s") ? TRY(parse_bytes(a.get("s"))) : 0;
  auto image = TRY(img::open(a.names[0], {.format = a.get("f"), .force_share = a.has("U"), .image_options = a.has("image-opts")}));
  uint64_t end = image->size();
  if (a.has("l")) end = std::min(end, start + TRY(parse_bytes(a.get("l"))));
  if (json) printf("[");
  else printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
  std::optional<Row> before;
  for (uint64_t at = start; at < end;) {
    auto here = TRY(storage::status_above(*image, nullptr, at, end - at));
    Row row{at, here.length, here.depth, here.allocated && !here.absent, here.zero, here.data, here.host, here.host && here.file ? here.file->name() : ""};
    if (!here.layer && !here.allocated) {
      // Nobody has it: it counts as the deepest layer's.
      unsigned depth = 0;
      for (Image* i = image->backing(); i; i = i->backing()) ++depth;
      row.depth = depth;
    }
    if (before && follows(*before, row)) {
      before->length += row.length;
    } else {
      if (before) TRY_VOID(print(*before, json, false));
      before = row;
    }
    at += here.length;
  }
  if (before) TRY_VOID(print(*before, json, true));
  if (json) printf("]\n");
  return 0;
}

}  // namespace vireo::cli::img
