-- Streams of other programs are named after domains ("org.example.notes"), which as the name of a sequence would have to
-- be quoted wherever it is used: such a sequence gets a plain name. The lock lets processes that start together make the
-- same stream.
CREATE OR REPLACE FUNCTION create_stream(p_stream text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    seq text := p_stream || '_stream_seq';
BEGIN
    IF p_stream !~ '^[a-z_][a-z0-9_]{0,50}$' THEN
        seq := 's_' || left(regexp_replace(lower(p_stream), '[^a-z0-9]+', '_', 'g'), 30) || '_' || left(md5(p_stream), 8) || '_stream_seq';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('create_stream'), hashtext(p_stream));
    EXECUTE format('CREATE SEQUENCE IF NOT EXISTS %I AS bigint INCREMENT BY 64 MINVALUE 1 START WITH 1', seq);
    INSERT INTO streams (stream, id_sequence) VALUES (p_stream, seq) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM start_stream_epoch(p_stream, 0, 'created');
    END IF;
END
$$;
