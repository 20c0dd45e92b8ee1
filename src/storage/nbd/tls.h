// SPDX-License-Identifier: Apache-2.0
// TLS over a channel, by OpenSSL. Certificates and keys are PEM files.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "storage/nbd/channel.h"

namespace vireo::storage::nbd {

using StartTls = std::function<Result<std::unique_ptr<Channel>>(std::unique_ptr<Channel>)>;
// `ca`: clients must show a certificate that it signed.
Result<StartTls> tls_server(const std::string& certificate, const std::string& key, const std::optional<std::string>& ca);

}  // namespace vireo::storage::nbd
