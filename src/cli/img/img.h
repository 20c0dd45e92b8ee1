// SPDX-License-Identifier: Apache-2.0
// `vireo img`, and the same under the name qemu-img: the commands and what they share. Commands, options, output and exit
// codes are those of QEMU's tool, since scripts rely on them (see qemu-img(1)).
#pragma once

#include <getopt.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "storage/image/open.h"
#include "storage/qcow2/create.h"

namespace vireo::cli::img {

using storage::Image;

// What a command's line was taken apart into.
class Arguments {
 public:
  bool has(const std::string& option) const { return values_.contains(option); }
  std::string get(const std::string& option, const std::string& otherwise = "") const {
    auto found = values_.find(option);
    return found == values_.end() ? otherwise : found->second.back();
  }
  std::vector<std::string> all(const std::string& option) const {
    auto found = values_.find(option);
    return found == values_.end() ? std::vector<std::string>{} : found->second;
  }
  std::vector<std::string> names;  // without options
  void add(const std::string& option, const std::string& value) { values_[option].push_back(value); }

 private:
  std::map<std::string, std::vector<std::string>> values_;
};

// `letters` as getopt(3) takes them; `words`: long options "name" or "name:" (with a value) or "name=x" (same as letter x).
Result<Arguments> parse_arguments(int argc, char** argv, const std::string& letters, const std::vector<std::string>& words);

// An error that has been told already, with its exit status.
inline std::unexpected<Error> told() { return fail(ErrorKind::kInvalid, ""); }

using OptionList = std::vector<std::pair<std::string, std::string>>;
// "a=b,c=d", ",," is a comma; a bare word is switched on.
Result<OptionList> parse_options(const std::vector<std::string>& texts);
Result<uint64_t> parse_bytes(const std::string& text);  // 1024, 1k, 1.5G
std::string human_size(uint64_t bytes);

enum class Output { kHuman, kJson };
Result<Output> parse_output(const Arguments& arguments);

struct OpenWish {
  std::string format;
  bool writable = false;
  bool backing = true;
  bool force_share = false;
  std::string cache = "writeback";
  bool image_options = false;  // the name is "driver=...,file.filename=..."
  std::string name_beside_options;  // of the file, when they leave it open
  bool repair = true;
  bool corrupt_too = false;
  std::string key_secret;      // id of an encrypted image's password
  bool no_data = false;        // an encrypted image's data is not wanted, so that no password is needed
};
Result<std::shared_ptr<Image>> open(const std::string& name, const OpenWish& wish);
// Whether one file has both names: with and without its folder, or by a link. One that is not there yet is the same by its name alone.
bool same_file(const std::string& a, const std::string& b);
// Whether an image would be its own backing file with this one below it, be it by way of others. What cannot be opened ends the search.
bool backed_by(const std::string& backing, const std::string& format, const std::string& image);
bool valid_cache(const std::string& mode);
// The lines of `info` from "Format specific information:" on.
void print_format_specific(storage::qcow2::Qcow2& image);
storage::qcow2::Qcow2* as_qcow2(Image& image);  // null: another format

// Creates an image of a format. Prints "Formatting ..." unless `quiet`.
struct CreateWish {
  std::string format = "raw", name, backing, backing_format;
  OptionList options;
  std::optional<uint64_t> size;
  bool quiet = false;
  bool unsafe = false;  // the backing file is not looked at
  bool print = true;
  bool* reused = nullptr;  // given by who writes or zeroes all: whether a raw file of that name was taken as it is (reuse_file)
};
Result<> create_image(const CreateWish& wish);
Result<storage::qcow2::CreateConfig> qcow2_config(const OptionList& options);
void print_create_options(const std::string& format);

class Progress {
 public:
  explicit Progress(bool on) : on_(on) {}
  void show(uint64_t done, uint64_t all);
  void end();

 private:
  bool on_;
  int last_ = -1;
};

using Command = Result<int> (*)(int argc, char** argv);
Result<int> create(int argc, char** argv);
Result<int> info(int argc, char** argv);
Result<int> check(int argc, char** argv);
Result<int> convert(int argc, char** argv);
Result<int> compare(int argc, char** argv);
Result<int> map(int argc, char** argv);
Result<int> measure(int argc, char** argv);
Result<int> resize(int argc, char** argv);
Result<int> snapshot(int argc, char** argv);
Result<int> commit(int argc, char** argv);
Result<int> rebase(int argc, char** argv);
Result<int> amend(int argc, char** argv);
Result<int> dd(int argc, char** argv);
Result<int> bench(int argc, char** argv);
Result<int> bitmap(int argc, char** argv);

// The whole tool; argv[0] is what its messages begin with.
int run(int argc, char** argv);

}  // namespace vireo::cli::img
