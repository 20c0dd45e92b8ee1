// SPDX-License-Identifier: Apache-2.0
// OpenSSL sees the bytes through two memory buffers, so that any channel can lie below and reads and writes may come from
// different threads: one lock guards the state, and nobody waits for the other end while holding it.
#include "storage/nbd/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <mutex>
#include <vector>

#include "base/delay_load.h"

VIREO_DELAY_LOADED(ssl);
VIREO_DELAY_LOADED(crypto);

namespace vireo::storage::nbd {
namespace {

std::string reason() {
  char text[256] = "unknown";
  if (auto code = ERR_get_error()) ERR_error_string_n(code, text, sizeof text);
  ERR_clear_error();
  return text;
}

class TlsChannel final : public Channel {
 public:
  TlsChannel(std::unique_ptr<Channel> below, SSL* ssl) : below_(std::move(below)), ssl_(ssl) {}
  ~TlsChannel() override { SSL_free(ssl_); }

  Result<> handshake() {
    for (;;) {
      int result;
      {
        std::lock_guard lock(mutex_);
        result = SSL_accept(ssl_);
        if (result != 1 && SSL_get_error(ssl_, result) != SSL_ERROR_WANT_READ) {
          const std::string why = reason();
          return fail(ErrorKind::kIo, "TLS handshake: " + why, EPROTO);
        }
      }
      TRY_VOID(send_pending());
      if (result == 1) return {};
      TRY_VOID(receive_some());
    }
  }

  Result<> read(std::span<std::byte> to) override {
    for (size_t done = 0; done < to.size();) {
      size_t got = 0;
      {
        std::lock_guard lock(mutex_);
        int result = SSL_read_ex(ssl_, to.data() + done, to.size() - done, &got);
        if (result != 1) {
          int error = SSL_get_error(ssl_, result);
          if (error == SSL_ERROR_ZERO_RETURN) return fail(done ? ErrorKind::kIo : ErrorKind::kNotFound, "the other end closed the connection", ECONNRESET);
          if (error != SSL_ERROR_WANT_READ) return fail(ErrorKind::kIo, "TLS: " + reason(), EPROTO);
        }
      }
      done += got;
      if (got == 0) {
        TRY_VOID(send_pending());
        TRY_VOID(receive_some());
      }
    }
    return {};
  }

  Result<> write(std::span<const std::byte> from) override {
    while (!from.empty()) {
      size_t n = 0;
      {
        std::lock_guard lock(mutex_);
        if (SSL_write_ex(ssl_, from.data(), std::min<size_t>(from.size(), 16384), &n) != 1) return fail(ErrorKind::kIo, "TLS: " + reason(), EPROTO);
      }
      from = from.subspan(n);
      TRY_VOID(send_pending());
    }
    return {};
  }
  void shut() override { below_->shut(); }

 private:
  // Records go out in the order in which they were made.
  Result<> send_pending() {
    std::lock_guard sending(send_mutex_);
    std::vector<std::byte> out;
    {
      std::lock_guard lock(mutex_);
      BIO* made = SSL_get_wbio(ssl_);
      out.resize(BIO_ctrl_pending(made));
      if (!out.empty()) BIO_read(made, out.data(), static_cast<int>(out.size()));
    }
    return out.empty() ? Result<>{} : below_->write(out);
  }
  // One record: its head says how long it is.
  Result<> receive_some() {
    std::byte head[5];
    TRY_VOID(below_->read(head));
    size_t length = std::to_integer<size_t>(head[3]) << 8 | std::to_integer<size_t>(head[4]);
    if (length > 16384 + 2048) return fail(ErrorKind::kCorrupt, "TLS: a record is too long", EPROTO);
    std::vector<std::byte> body(length);
    TRY_VOID(below_->read(body));
    std::lock_guard lock(mutex_);
    BIO* got = SSL_get_rbio(ssl_);
    BIO_write(got, head, sizeof head);
    if (length) BIO_write(got, body.data(), static_cast<int>(length));
    return {};
  }

  std::unique_ptr<Channel> below_;
  SSL* ssl_;
  std::mutex mutex_, send_mutex_;
};

}  // namespace

Result<StartTls> tls_server(const std::string& certificate, const std::string& key, const std::optional<std::string>& ca) {
  TRY_VOID(load_library(vireo_delay_load_ssl));
  TRY_VOID(load_library(vireo_delay_load_crypto));
  std::shared_ptr<SSL_CTX> context(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
  if (!context) return fail(ErrorKind::kInternal, "TLS: " + reason());
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  if (SSL_CTX_use_certificate_chain_file(context.get(), certificate.c_str()) != 1) return fail(ErrorKind::kInvalid, "--tls-cert '" + certificate + "': " + reason());
  if (SSL_CTX_use_PrivateKey_file(context.get(), key.c_str(), SSL_FILETYPE_PEM) != 1) return fail(ErrorKind::kInvalid, "--tls-key '" + key + "': " + reason());
  if (ca) {
    if (SSL_CTX_load_verify_locations(context.get(), ca->c_str(), nullptr) != 1) return fail(ErrorKind::kInvalid, "--tls-ca '" + *ca + "': " + reason());
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  }
  return [context](std::unique_ptr<Channel> below) -> Result<std::unique_ptr<Channel>> {
    SSL* ssl = SSL_new(context.get());
    if (!ssl) return fail(ErrorKind::kInternal, "TLS: " + reason());
    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    auto channel = std::make_unique<TlsChannel>(std::move(below), ssl);
    TRY_VOID(channel->handshake());
    return channel;
  };
}

}  // namespace vireo::storage::nbd
