// SPDX-License-Identifier: Apache-2.0
// rsa N KEY: signs N digests with RSA and PKCS #1 padding, which is deterministic, and prints the signatures' combination.
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  if (argc != 3) return 1;
  FILE *file = fopen(argv[2], "r");
  EVP_PKEY *key = file ? PEM_read_PrivateKey(file, 0, 0, 0) : 0;
  if (!key) return 2;
  unsigned char all[512] = {0}, signature[512];
  for (int i = 0, n = atoi(argv[1]); i < n; i++) {
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    size_t size = sizeof signature;
    if (EVP_DigestSignInit(context, 0, EVP_sha256(), 0, key) != 1 || EVP_DigestSign(context, signature, &size, (void *)&i, sizeof i) != 1) return 3;
    for (size_t j = 0; j < size; j++) all[j] ^= signature[j];
    EVP_MD_CTX_free(context);
  }
  for (int j = 0; j < 256; j++) printf("%02x", all[j]);
  putchar('\n');
}
