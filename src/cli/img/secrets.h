// SPDX-License-Identifier: Apache-2.0
// Passwords given by `--object secret,id=...`: one namespace for the command, as in QEMU's tools.
#pragma once

#include "storage/crypto/secret_bytes.h"

namespace vireo::cli::img {

// "secret,id=NAME,data=TEXT|file=PATH[,format=raw|base64]".
Result<> add_object(const std::string& text);
Result<storage::SecretBytes> find_secret(const std::string& id);

}  // namespace vireo::cli::img
