// SPDX-License-Identifier: Apache-2.0
// Options about encryption: of `create`, of `amend`; and what `info` tells.
#pragma once

#include <nlohmann/json.hpp>

#include "cli/img/img.h"
#include "storage/crypto/luks.h"

namespace vireo::cli::img {

// One of cipher-alg, cipher-mode, ivgen-alg, ivgen-hash-alg, hash-alg, iter-time; false: another name.
Result<bool> luks_option(const std::string& name, const std::string& value, storage::LuksOptions& options);

// What `amend` changes at key slots: state, new-secret, old-secret, keyslot, iter-time.
struct KeyChange {
  std::string state, new_secret, old_secret;
  std::optional<uint64_t> keyslot;
  uint64_t iter_time = 2000;
  bool asked = false;
  Result<bool> take(const std::string& name, const std::string& value);  // false: another name
};
Result<> change_keys(storage::Luks& luks, storage::File& file, const KeyChange& change, bool force, const std::string& secret_option);

nlohmann::ordered_json describe_luks(const storage::LuksHeader& header, bool in_qcow2);

}  // namespace vireo::cli::img
