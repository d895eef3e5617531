package config

import "time"

// MediaOptions holds the options of the media repository.
type MediaOptions struct {
	// EnableMediaRepo serves media in this process. Defaults to true.
	EnableMediaRepo bool `yaml:"enable_media_repo" later:"true"`
	// EnableAuthenticatedMedia hides media from requests without a token. Defaults to true.
	EnableAuthenticatedMedia bool `yaml:"enable_authenticated_media" later:"true"`
	// MediaStorePath is the directory of the media. Defaults to media_store in data_dir.
	MediaStorePath string `yaml:"media_store_path" later:"true"`
	// MediaStorageProviders lists further stores.
	MediaStorageProviders []map[string]any `yaml:"media_storage_providers" later:"true"`
	// MaxUploadSize is the largest upload in bytes. Defaults to 50M.
	MaxUploadSize Size `yaml:"max_upload_size" later:"true"`
	// MediaUploadLimits bounds uploads of a user over time.
	MediaUploadLimits []MediaUploadLimit `yaml:"media_upload_limits" later:"true"`
	// MaxImagePixels is the largest image to make thumbnails of. Defaults to 32M.
	MaxImagePixels Size `yaml:"max_image_pixels" later:"true"`
	// MaxPendingMediaUploads is the number of announced uploads a user may have. Defaults to 5.
	MaxPendingMediaUploads int `yaml:"max_pending_media_uploads" later:"true"`
	// UnusedExpirationTime is how long an announced upload may take. Defaults to 24 hours.
	UnusedExpirationTime time.Duration `yaml:"unused_expiration_time" later:"true"`
	// RemoteMediaDownloadBurstCount bounds downloads from other servers, by address. Defaults to 500M.
	RemoteMediaDownloadBurstCount Size `yaml:"remote_media_download_burst_count" later:"true"`
	// RemoteMediaDownloadPerSecond bounds downloads from other servers, by address. Defaults to 87K.
	RemoteMediaDownloadPerSecond Size `yaml:"remote_media_download_per_second" later:"true"`
	// PreventMediaDownloadsFrom lists servers whose media is not fetched.
	PreventMediaDownloadsFrom []string `yaml:"prevent_media_downloads_from" later:"true"`
	// DynamicThumbnails makes thumbnails of any size asked for. Defaults to false.
	DynamicThumbnails bool `yaml:"dynamic_thumbnails" later:"true"`
	// ThumbnailSizes lists the thumbnails made of each image.
	ThumbnailSizes []ThumbnailSize `yaml:"thumbnail_sizes" later:"true"`
	// MediaRetention removes old media.
	MediaRetention MediaRetention `yaml:"media_retention" later:"true"`
	// URLPreviewEnabled makes previews of links. Defaults to false.
	URLPreviewEnabled bool `yaml:"url_preview_enabled" later:"true"`
	// URLPreviewIPRangeBlacklist lists ranges previews may not reach. Required with url_preview_enabled.
	URLPreviewIPRangeBlacklist []string `yaml:"url_preview_ip_range_blacklist" later:"true"`
	// URLPreviewIPRangeWhitelist lists exceptions.
	URLPreviewIPRangeWhitelist []string `yaml:"url_preview_ip_range_whitelist" later:"true"`
	// URLPreviewURLBlacklist lists links that get no preview.
	URLPreviewURLBlacklist []map[string]any `yaml:"url_preview_url_blacklist" later:"true"`
	// URLPreviewAcceptLanguage lists languages to ask for. Defaults to "en".
	URLPreviewAcceptLanguage []string `yaml:"url_preview_accept_language" later:"true"`
	// MaxSpiderSize is the largest page to read for a preview. Defaults to 10M.
	MaxSpiderSize Size `yaml:"max_spider_size" later:"true"`
	// OEmbed configures oEmbed providers.
	OEmbed map[string]any `yaml:"oembed" later:"true"`
}

// MediaUploadLimit bounds a user's uploads in a period.
type MediaUploadLimit struct {
	// TimePeriod is the period.
	TimePeriod time.Duration `yaml:"time_period"`
	// MaxSize is the number of bytes.
	MaxSize Size `yaml:"max_size"`
}

// ThumbnailSize is one thumbnail.
type ThumbnailSize struct {
	// Width is in pixels.
	Width int `yaml:"width"`
	// Height is in pixels.
	Height int `yaml:"height"`
	// Method is "crop" or "scale".
	Method string `yaml:"method"`
}

// MediaRetention removes old media.
type MediaRetention struct {
	// LocalMediaLifetime is how long unused local media is kept, 0 for ever.
	LocalMediaLifetime time.Duration `yaml:"local_media_lifetime"`
	// RemoteMediaLifetime is how long unused media of other servers is kept, 0 for ever.
	RemoteMediaLifetime time.Duration `yaml:"remote_media_lifetime"`
}

// PushOptions holds the options of notifications.
type PushOptions struct {
	// Push configures push notifications.
	Push PushConfig `yaml:"push" later:"true"`
	// Email configures mail.
	Email map[string]any `yaml:"email" later:"true"`
}

// PushConfig configures push notifications.
type PushConfig struct {
	// Enabled sends them. Defaults to true.
	Enabled bool `yaml:"enabled"`
	// IncludeContent sends the content of events. Defaults to true.
	IncludeContent bool `yaml:"include_content"`
	// GroupUnreadCountByRoom counts rooms instead of messages. Defaults to true.
	GroupUnreadCountByRoom bool `yaml:"group_unread_count_by_room"`
	// JitterDelay is the longest random delay, 0 for none.
	JitterDelay time.Duration `yaml:"jitter_delay"`
}

// LoggingOptions holds the options of logs.
type LoggingOptions struct {
	// LogConfig is the log configuration file: Python's logging.config in YAML, as Synapse uses it. Read are the level of
	// root and of named loggers, and console and file handlers. Defaults to level INFO on standard error.
	LogConfig string `yaml:"log_config"`
	// LogFile is Synapse's oldest way to name a log file.
	LogFile string `yaml:"log_file" unused:"use log_config"`
	// Verbose is Synapse's oldest way to set the level.
	Verbose int `yaml:"verbose" unused:"use log_config"`
}

// CachingOptions holds the options of caches.
type CachingOptions struct {
	// EventCacheSize is the number of events kept in memory, as a size. Defaults to 10K.
	EventCacheSize Size `yaml:"event_cache_size"`
	// Caches tunes caches.
	Caches Caches `yaml:"caches"`
}

// Caches tunes caches.
type Caches struct {
	// GlobalFactor scales all caches. Defaults to 0.5.
	GlobalFactor float64 `yaml:"global_factor"`
	// PerCacheFactors scales single caches by name.
	PerCacheFactors map[string]float64 `yaml:"per_cache_factors"`
	// ExpireCaches drops entries not used for CacheEntryTTL. Defaults to true.
	ExpireCaches bool `yaml:"expire_caches"`
	// CacheEntryTTL is the age of unused entries. Defaults to 30 minutes.
	CacheEntryTTL time.Duration `yaml:"cache_entry_ttl"`
	// SyncResponseCacheDuration is how long a sync response is kept for a retry. Defaults to 2 minutes.
	SyncResponseCacheDuration time.Duration `yaml:"sync_response_cache_duration"`
	// CacheAutotuning shrinks caches under memory pressure.
	CacheAutotuning map[string]any `yaml:"cache_autotuning" unused:"the Go runtime's memory limit (GOMEMLIMIT) does this"`
}
