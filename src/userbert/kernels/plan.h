/* Who works on which users, and where everything lies in memory. encoder.c uses it.
 *
 * Users are dealt to parts, one a thread, so that all have about the same to do; a part takes its
 * users in groups small enough that a group's rows stay in the cache from layer to layer. Rows of
 * kept arrays follow that order, so a group's rows are neighbours.
 */
#ifndef USERBERT_PLAN_H
#define USERBERT_PLAN_H

#include <stdint.h>
#include <stdlib.h>

enum { GROUP_TOKENS = 288 };

typedef struct {
    int64_t first;   /* where the user's tokens begin in the caller's arrays */
    int64_t row;     /* and in kept arrays */
    int tokens, part;
} User;

typedef struct {
    User *users;  /* by part, the longest first */
    int *starts;  /* (parts + 1,): where each part's users begin */
    int parts, longest;
} Plan;

/* What is taken from a block of memory, in order; with base 0 it counts what would be. */
typedef struct {
    uintptr_t next;
} Memory;

static inline void *take(Memory *memory, int64_t bytes)
{
    void *found = (void *)memory->next;
    memory->next += ((uintptr_t)bytes + 63) / 64 * 64;
    return found;
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

/* Deal `count` users of at least one token each; parts ≤ count. `users` (count,), `starts`
 * (parts + 1,) and `work` (parts,) are the plan's to fill. */
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
        int least = 0;
        for (int p = 1; p < parts; p++)
            least = work[p] < work[least] ? p : least;
        plan.users[u].part = least;
        /* A token's linear maps cost as much as its attention to some 600 tokens. */
        work[least] += plan.users[u].tokens * (600.0 + plan.users[u].tokens);
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

/* Neighbours of a part whose tokens go through the layers together: users [first, last). */
typedef struct {
    int first, last;
    int tokens;
    int64_t row;
} Group;

/* The group that begins with a user; it holds that user, however long. */
static inline Group group_from(const Plan *plan, int part, int first)
{
    const User *users = plan->users;
    Group group = {first, first + 1, users[first].tokens, users[first].row};
    while (group.last < plan->starts[part + 1] &&
           group.tokens + users[group.last].tokens <= GROUP_TOKENS)
        group.tokens += users[group.last++].tokens;
    return group;
}

/* The most tokens that a group of this plan can have. */
static inline int most_tokens(const Plan *plan)
{
    return plan->longest > GROUP_TOKENS ? plan->longest : GROUP_TOKENS;
}

#endif
