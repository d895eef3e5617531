package event

import (
	"fmt"
	"slices"
	"strconv"
)

// checkPowerLevels is the rule on m.room.power_levels. Its parts are numbered as in room versions 1 to 9, where checking
// users is the first; shift turns the numbers of the parts after it into those of the version.
func (c *authCheck) checkPowerLevels() error {
	shift := 0
	if c.v.IntegerPowerLevels {
		shift += 2
	}
	if err := c.checkLevelTypes(shift); err != nil {
		return err
	}
	if c.v.PrivilegedCreators {
		shift++
		users := c.e.levels().users
		for _, creator := range Creators(c.create) {
			if _, ok := users[creator]; ok {
				return c.fail(rulePowerLevels, ".4", "users holds a creator of the room")
			}
		}
	}
	fail := func(part int, what string) error {
		return c.fail(rulePowerLevels, "."+strconv.Itoa(part+shift), what)
	}
	current := c.state.Event(Tuple{Type: TypePowerLevels})
	if current == nil {
		return nil
	}
	before, after := current.levels(), c.e.levels()
	level := c.levels.UserLevel(c.e.sender)

	for n, name := range levelNames {
		if before.has[n] == after.has[n] && before.named[n] == after.named[n] {
			continue
		}
		if before.has[n] && before.named[n] > level || after.has[n] && after.named[n] > level {
			return fail(3, fmt.Sprintf("sender's power level of %d is not enough to change %s", level, name))
		}
	}
	for _, m := range [...]struct {
		name          string
		before, after map[string]int64
		skip          bool
	}{
		{"events", before.events, after.events, false},
		{"notifications", before.notifications, after.notifications, !c.v.NotificationLevels},
	} {
		if m.skip {
			continue
		}
		if key, ok := changedAbove(m.before, m.after, level); ok {
			return fail(4, fmt.Sprintf("sender's power level of %d is not enough to change %s of %s", level, m.name, key))
		}
		if key, ok := changedAbove(m.after, m.before, level); ok {
			return fail(5, fmt.Sprintf("sender's power level of %d is not enough to set %s of %s", level, m.name, key))
		}
	}
	for user, old := range before.users {
		if n, ok := after.users[user]; (!ok || n != old) && user != c.e.sender && old >= level {
			return fail(6, fmt.Sprintf("sender's power level of %d is not enough to change that of %s", level, user))
		}
	}
	if user, ok := changedAbove(after.users, before.users, level); ok {
		return fail(7, fmt.Sprintf("sender's power level of %d is not enough for that of %s", level, user))
	}
	return nil
}

// changedAbove finds an entry of m that other has not, or not with the same value, and whose value is above a level.
func changedAbove(m, other map[string]int64, level int64) (string, bool) {
	for key, n := range m {
		if o, ok := other[key]; (!ok || o != n) && n > level {
			return key, true
		}
	}
	return "", false
}

// checkLevelTypes holds the values of a new m.room.power_levels to their types.
func (c *authCheck) checkLevelTypes(shift int) error {
	fail := func(part int, what string) error { return c.fail(rulePowerLevels, "."+strconv.Itoa(part), what) }
	for it := iterObject(c.e.Content()); it.next(); {
		key := string(it.key)
		if !c.v.IntegerPowerLevels {
			continue
		}
		if slices.Contains(levelNames[:], key) {
			if _, ok := parseLevel(c.v, it.val); !ok {
				return fail(1, key+" is not an integer")
			}
		}
		if key == "events" || key == "notifications" {
			if !isObject(it.val) {
				return fail(2, key+" is not an object")
			}
			for m := iterObject(it.val); m.next(); {
				if _, ok := parseLevel(c.v, m.val); !ok {
					return fail(2, key+" holds something else than integers")
				}
			}
		}
	}
	users := lookup(c.e.Content(), "users")
	if users == nil {
		return nil
	}
	if !isObject(users) {
		return fail(1+shift, "users is not an object")
	}
	for m := iterObject(users); m.next(); {
		if _, ok := parseLevel(c.v, m.val); !ok || !validUserID(unescape(m.key)) {
			return fail(1+shift, "users holds something else than user ids and integers")
		}
	}
	return nil
}
