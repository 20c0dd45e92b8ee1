// SPDX-License-Identifier: Apache-2.0
// What to open, said by options: "driver=qcow2,file.driver=file,file.filename=a.qcow2" or the same as json:{...}. A tree of drivers
// as QEMU's tools take it, kept flat: a dotted name for each value. Opening takes the options out one by one; what is left over is wrong.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace vireo::storage {

class ImageSpec {
 public:
  ImageSpec() = default;
  explicit ImageSpec(const std::vector<std::pair<std::string, std::string>>& options);
  // "json:{...}"; quotes may be single ones, as QEMU takes them.
  static Result<ImageSpec> from_json(const std::string& text);
  static bool is_json(const std::string& name) { return name.starts_with("json:"); }

  bool empty() const { return values_.empty(); }
  void set(const std::string& name, std::string value) { values_[name] = std::move(value); }
  std::optional<std::string> get(const std::string& name) const;
  std::optional<std::string> take(const std::string& name);
  Result<std::optional<bool>> take_switch(const std::string& name);
  Result<std::optional<uint64_t>> take_size(const std::string& name);
  ImageSpec take_part(const std::string& name);               // all of "name.*", without the name
  std::vector<ImageSpec> take_list(const std::string& name);  // "name.0.*", "name.1.*", ...
  void put_part(const std::string& name, const ImageSpec& part);
  const std::map<std::string, std::string>& values() const { return values_; }
  // A name that from_json() takes.
  std::string json() const;

 private:
  std::map<std::string, std::string> values_;
};

}  // namespace vireo::storage
