/* Assigns users to threads and groups, and memory to arrays; encoder.c and forward.c use it.
 *
 * Users are assigned to parts, one part per thread, with about equal work. A part runs its users in
 * groups so small that a group's rows stay in the cache from layer to layer. Kept arrays have their
 * rows in the order of parts and groups, so a group's rows are adjacent.
 */
#ifndef USERBERT_PLAN_H
#define USERBERT_PLAN_H

#include <stdint.h>
#include <stdlib.h>

/* Most tokens in a group of more than one user. */
enum { GROUP_TOKENS = 288 };

typedef struct {
    int64_t first;   /* index of the user's first token in the caller's arrays */
    int64_t row;     /* index of that token in kept arrays */
    int tokens, part;
} User;

typedef struct {
    User *users;  /* ordered by part, longest first */
    int *starts;  /* (parts + 1,): index of each part's first user */
    int parts, longest;
} Plan;

/* Bump allocator over a block of memory. From base 0, it counts the bytes that are needed. */
typedef struct {
    uintptr_t next;
} Memory;

static inline void *take(Memory *memory, int64_t bytes)
{
    void *address = (void *)memory->next;
    memory->next += ((uintptr_t)bytes + 63) / 64 * 64;
    return address;
}

static inline int longer_first(const void *left, const void *right)
{
    const User *a = left, *b = right;
    if (a->tokens != b->tokens)
        return a->tokens > b->tokens ? -1 : 1;
    return a->first < b->first ? -1 : a->first > b->first;
}

static inline int by_part(const void *left, const void *right)
{
    const User *a = left, *b = right;
    return a->part != b->part ? (a->part > b->part ? 1 : -1) : longer_first(left, right);
}

/* Assigns `count` users of at least one token each to parts ≤ count. Fills the arrays `users`
 * (count,), `starts` (parts + 1,) and `work` (parts,). */
static inline Plan make_plan(const int64_t *lengths, int count, int parts, User *users, int *starts,
                             double *work)
{
    Plan plan = {users, starts, parts, 0};
    int64_t first = 0;
    for (int u = 0; u < count; u++) {
        plan.users[u] = (User){first, 0, (int)lengths[u], 0};
        first += lengths[u];
    }
    qsort(plan.users, (size_t)count, sizeof(User), longer_first);
    plan.longest = plan.users[0].tokens;
    for (int p = 0; p < parts; p++)
        work[p] = 0;
    for (int u = 0; u < count; u++) {
        int lightest = 0;
        for (int p = 1; p < parts; p++)
            lightest = work[p] < work[lightest] ? p : lightest;
        plan.users[u].part = lightest;
        /* A token's linear maps cost about as much as attention to 600 tokens. */
        work[lightest] += plan.users[u].tokens * (600.0 + plan.users[u].tokens);
    }
    qsort(plan.users, (size_t)count, sizeof(User), by_part);
    int64_t row = 0;
    for (int u = 0, part = 0; u <= count; u++) {
        while (part <= parts && (u == count || plan.users[u].part >= part))
            plan.starts[part++] = u;
        if (u < count) {
            plan.users[u].row = row;
            row += plan.users[u].tokens;
        }
    }
    return plan;
}

/* Adjacent users [first, last) of a part, whose tokens pass through the layers together. */
typedef struct {
    int first, last;
    int tokens;
    int64_t row;
} Group;

/* The group that starts with user `first`. A user longer than GROUP_TOKENS is a group alone. */
static inline Group group_from(const Plan *plan, int part, int first)
{
    const User *users = plan->users;
    Group group = {first, first + 1, users[first].tokens, users[first].row};
    while (group.last < plan->starts[part + 1] &&
           group.tokens + users[group.last].tokens <= GROUP_TOKENS)
        group.tokens += users[group.last++].tokens;
    return group;
}

/* Upper bound on the tokens in a group of this plan. */
static inline int max_group_tokens(const Plan *plan)
{
    return plan->longest > GROUP_TOKENS ? plan->longest : GROUP_TOKENS;
}

#endif
