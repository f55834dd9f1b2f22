/* Sends one prepared statement over and over, each time with another line of a file as its
 * parameter, and checks each answer, as an application would.
 *
 *   load --query SQL --params FILE [--expect TEXT] [--clients N] [--seed N]
 *        (--seconds S [--rate PER_SECOND] | --once)
 *
 * pgbench cannot do this: its variables do not come from files, and looking the parameter up
 * within the statement would slow all contenders alike and flatter the ratios between them.
 *
 * Lines are taken at random, in the same order for the same seed; with --once each is taken once.
 * Prints "started" when all clients are connected and prepared, then transactions and seconds.
 * Any error, or an answer whose first column lacks TEXT, ends it with status 1. */
#include <getopt.h>
#include <libpq-fe.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *query, *expect = "";
static long clients = 4, seed = 1;
static double seconds, rate;
static bool once;
static char **lines;
static long line_count;
static pthread_barrier_t ready;

struct client {
    pthread_t thread;
    long number, transactions;
};

static void die(const char *what, const char *detail) {
    fprintf(stderr, "load: %s: %s\n", what, detail);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void sleep_for(double duration) {
    struct timespec t = {(time_t)duration, (long)((duration - (time_t)duration) * 1e9)};
    if (duration > 0) nanosleep(&t, NULL);
}

/* splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
static uint64_t random_next(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static void ask(PGconn *connection, const char *parameter) {
    PGresult *result = PQexecPrepared(connection, "q", 1, &parameter, NULL, NULL, 0);
    if (PQresultStatus(result) != PGRES_TUPLES_OK) die("query", PQerrorMessage(connection));
    if (PQntuples(result) != 1) die("not one row", PQcmdTuples(result));
    if (!strstr(PQgetvalue(result, 0, 0), expect)) die("wrong answer", PQgetvalue(result, 0, 0));
    PQclear(result);
}

static void *run(void *argument) {
    struct client *client = argument;
    uint64_t state = (uint64_t)seed << 32 | (uint64_t)client->number;
    PGconn *connection = PQconnectdb("");
    if (PQstatus(connection) != CONNECTION_OK) die("connect", PQerrorMessage(connection));
    PGresult *prepared = PQprepare(connection, "q", query, 1, NULL);
    if (PQresultStatus(prepared) != PGRES_COMMAND_OK) die("prepare", PQerrorMessage(connection));
    PQclear(prepared);

    pthread_barrier_wait(&ready);
    if (once) {
        for (long i = client->number; i < line_count; i += clients) {
            ask(connection, lines[i]);
            client->transactions++;
        }
    } else {
        double start = now(), time = start;
        while (time < start + seconds) {
            ask(connection, lines[random_next(&state) % (uint64_t)line_count]);
            client->transactions++;
            time = now();
            if (rate > 0) sleep_for(start + client->transactions * clients / rate - time);
        }
    }
    PQfinish(connection);
    return NULL;
}

static void read_lines(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) die("cannot read", path);
    char *line = NULL;
    size_t size = 0, room = 0;
    for (ssize_t length; (length = getline(&line, &size, file)) > 0;) {
        if (line[length - 1] == '\n') line[length - 1] = 0;
        if ((size_t)line_count == room)
            lines = realloc(lines, (room = room ? room * 2 : 1024) * sizeof *lines);
        lines[line_count++] = strdup(line);
    }
    if (line_count == 0) die("no lines", path);
    fclose(file);
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"query", required_argument, NULL, 'q'},   {"params", required_argument, NULL, 'p'},
        {"expect", required_argument, NULL, 'e'},  {"clients", required_argument, NULL, 'c'},
        {"seconds", required_argument, NULL, 's'}, {"rate", required_argument, NULL, 'r'},
        {"seed", required_argument, NULL, 'n'},    {"once", no_argument, NULL, 'o'},
        {NULL, 0, NULL, 0}};
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) switch (option) {
        case 'q': query = optarg; break;
        case 'p': read_lines(optarg); break;
        case 'e': expect = optarg; break;
        case 'c': clients = atol(optarg); break;
        case 's': seconds = atof(optarg); break;
        case 'r': rate = atof(optarg); break;
        case 'n': seed = atol(optarg); break;
        case 'o': once = true; break;
        default: return 2;
    }
    if (!query || !lines || clients < 1 || !(once || seconds > 0)) die("arguments", "see load.c");

    struct client *all = calloc((size_t)clients, sizeof *all);
    pthread_barrier_init(&ready, NULL, (unsigned)clients + 1);
    for (long i = 0; i < clients; i++) {
        all[i].number = i;
        pthread_create(&all[i].thread, NULL, run, &all[i]);
    }
    pthread_barrier_wait(&ready);
    double start = now();
    puts("started");
    fflush(stdout);
    long transactions = 0;
    for (long i = 0; i < clients; i++) {
        pthread_join(all[i].thread, NULL);
        transactions += all[i].transactions;
    }
    printf("%ld %.6f\n", transactions, now() - start);
}
