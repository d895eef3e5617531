package accountdata

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/weft-im/weft/homeserver/mxerr"
)

const maxTagLen = 255

// Tags returns the tags of a user's room by name, each with its JSON object.
func (s *Service) Tags(ctx context.Context, userID, roomID string) (map[string]json.RawMessage, error) {
	content, err := s.Get(ctx, userID, roomID, TypeTag)
	if errors.Is(err, mxerr.NotFound) {
		return map[string]json.RawMessage{}, nil
	}
	if err != nil {
		return nil, err
	}
	tags, _ := parseTags(content)
	return tags, nil
}

// SetTag puts a tag on a user's room. content is a JSON object; "order" in it, if there, must be a number from 0 to 1.
func (s *Service) SetTag(ctx context.Context, userID, roomID, tag string, content json.RawMessage) error {
	if err := checkTag(roomID, tag); err != nil {
		return err
	}
	var order struct {
		Order *float64 `json:"order"`
	}
	if err := json.Unmarshal(content, &order); err != nil {
		return mxerr.BadJSON.WithMessage("The order of a tag must be a number").Wrap(err)
	}
	if order.Order != nil && (*order.Order < 0 || *order.Order > 1) {
		return mxerr.InvalidParam.WithMessage("The order of a tag must be between 0 and 1")
	}
	return s.change(ctx, userID, change{RoomID: roomID, Type: TypeTag, Op: opTag, Tag: tag, Content: content})
}

// DeleteTag takes a tag from a user's room. A tag that is not there is passed over.
func (s *Service) DeleteTag(ctx context.Context, userID, roomID, tag string) error {
	if err := checkTag(roomID, tag); err != nil {
		return err
	}
	return s.change(ctx, userID, change{RoomID: roomID, Type: TypeTag, Op: opUntag, Tag: tag})
}

// CopyRoomSettings carries a user's tags and their mark as a direct chat from a room over to the one that replaces it. It
// may be called more than once.
func (s *Service) CopyRoomSettings(ctx context.Context, userID, fromRoomID, toRoomID string) error {
	tags, err := s.Tags(ctx, userID, fromRoomID)
	if err != nil {
		return err
	}
	for tag, content := range tags {
		if err := s.SetTag(ctx, userID, toRoomID, tag, content); err != nil {
			return err
		}
	}
	direct, err := s.Get(ctx, userID, "", TypeDirect)
	if errors.Is(err, mxerr.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var rooms map[string][]string
	if json.Unmarshal(direct, &rooms) != nil {
		return nil // not what the specification says; leave the client's data alone
	}
	changed := false
	for with, ids := range rooms {
		if slices.Contains(ids, fromRoomID) && !slices.Contains(ids, toRoomID) {
			rooms[with] = append(ids, toRoomID)
			changed = true
		}
	}
	if !changed {
		return nil
	}
	if direct, err = json.Marshal(rooms); err != nil {
		return err
	}
	return s.Put(ctx, userID, "", TypeDirect, direct)
}

func checkTag(roomID, tag string) error {
	if err := check(roomID, TypeTag); err != nil {
		return err
	}
	if roomID == "" {
		return mxerr.InvalidParam.WithMessage("Invalid room ID")
	}
	if tag == "" || len(tag) > maxTagLen {
		return mxerr.InvalidParam.WithMessage("The name of a tag must have 1 to 255 bytes")
	}
	return nil
}

// parseTags reads the content of an m.tag event; clients may have stored anything there.
func parseTags(content json.RawMessage) (tags map[string]json.RawMessage, ok bool) {
	var body struct {
		Tags map[string]json.RawMessage `json:"tags"`
	}
	if json.Unmarshal(content, &body) != nil || body.Tags == nil {
		return map[string]json.RawMessage{}, false
	}
	return body.Tags, true
}

// editTags adds a tag to the content of an m.tag event, or takes it out.
func editTags(content json.RawMessage, tag string, value json.RawMessage, add bool) (json.RawMessage, bool, error) {
	tags, _ := parseTags(content)
	if _, there := tags[tag]; !add && !there {
		return content, false, nil
	}
	if add {
		tags[tag] = value
	} else {
		delete(tags, tag)
	}
	out, err := json.Marshal(map[string]any{"tags": tags})
	return out, true, err
}
