// SPDX-License-Identifier: Apache-2.0
#include "cli/img/secrets.h"

#include <map>

#include "cli/img/img.h"

namespace vireo::cli::img {
namespace {

std::map<std::string, storage::SecretBytes>& all() {
  static std::map<std::string, storage::SecretBytes> secrets;
  return secrets;
}
std::unexpected<Error> bad(const std::string& why) { return fail(ErrorKind::kInvalid, why, EINVAL); }

}  // namespace

Result<> add_object(const std::string& text) {
  OptionList options = TRY(parse_options({text}));
  if (options.empty()) return bad("--object: the type is missing");
  std::string type = options[0].first == "qom-type" ? options[0].second : options[0].first, id, format = "raw";
  if (type != "secret") return fail(ErrorKind::kUnsupported, "--object " + type + ": only objects of type secret are supported");
  std::optional<std::string> data, file;
  for (size_t i = 1; i < options.size(); ++i) {
    auto& [key, value] = options[i];
    if (key == "id") id = value;
    else if (key == "data") data = value;
    else if (key == "file") file = value;
    else if (key == "format") format = value;
    else if (key == "keyid" || key == "iv") return fail(ErrorKind::kUnsupported, "--object secret: encrypted secrets (" + key + ") are not supported");
    else return bad("--object secret: Invalid parameter '" + key + "'");
  }
  if (id.empty()) return bad("--object secret: Parameter 'id' is missing");
  if (data && file) return bad("'file' and 'data' are mutually exclusive");
  if (!data && !file) return bad("Must provide 'file' or 'data'");
  if (format != "raw" && format != "base64") return bad("--object secret: Parameter 'format' does not accept value '" + format + "'");
  storage::SecretBytes secret = file ? TRY(storage::read_secret_file(*file)) : storage::SecretBytes(*data);
  if (format == "base64") {
    auto decoded = storage::decode_base64(secret);
    if (!decoded) return std::unexpected(std::move(decoded).error().within("--object secret,id=" + id));
    secret = std::move(*decoded);
  }
  if (all().contains(id)) return bad("attempt to add duplicate property '" + id + "' to object (type 'container')");
  all().emplace(id, std::move(secret));
  return {};
}

Result<storage::SecretBytes> find_secret(const std::string& id) {
  auto found = all().find(id);
  if (found == all().end()) return bad("No secret with id '" + id + "'");
  return found->second;
}

}  // namespace vireo::cli::img
