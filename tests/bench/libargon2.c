/* Verifies lines of "PHC string, tab, secret" from stdin with libargon2, one after another, and
 * prints how many and the seconds. Links Debian's library without its header, so that nothing
 * but the package argon2 is needed. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <string.h>
#include <time.h>

int argon2id_verify(const char *encoded, const void *secret, size_t length);

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

int main(void) {
    char encoded[512], secret[128];
    double seconds = 0;
    int hashes = 0;
    while (scanf("%511s %127s", encoded, secret) == 2) {
        double start = now();
        if (argon2id_verify(encoded, secret, strlen(secret)) != 0) {
            fputs("libargon2: does not verify\n", stderr);
            return 1;
        }
        seconds += now() - start;
        hashes++;
    }
    printf("%d %.6f\n", hashes, seconds);
}
